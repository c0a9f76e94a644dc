"""What containers and images take on disk, each block counted once, and what removal gives back."""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.errors import failing
from reflayer.extents import measure_files, measure_trees, share_out
from reflayer.images.content.blob_store import blob_name
from reflayer.record import record, replace
from reflayer.store.containers import Container, containers
from reflayer.store.images import StoredImage, find_either, images
from reflayer.store.warm import spares

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
    from sqlite3 import Connection

    from reflayer.driver.spares import Spares
    from reflayer.extents import TreeUsage
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts


Unit = str | frozenset[str]
"""What is measured as one: a layer or container, by its id; the spares of a layer, by its id with
``_SPARES`` before it; or the blobs that the same images use, by those."""

_SPARES = "spares of "


@record
class Space:
    """What some trees and blobs take together; all sizes in bytes.

    Attributes:
        inodes: files of every type.
        size: lengths of the regular files, as ``ls`` shows them.
        allocated: what they would take if nothing were shared, as ``du`` shows it.
        shared: what they really take, together with others.
        own: what they really take alone.
        untold: how much of ``own`` may be shared all the same, as far as the file system tells.
        unread: files and folders that this user may not read.
    """

    inodes: int
    size: int
    allocated: int
    shared: int
    own: int
    untold: int
    unread: int


@record
class ContainerUsage:
    """What one container, with its folder and its checkpoints, takes.

    Attributes:
        gives_back: bytes that its removal would free: its own, and its image's where the image has
            no name any more and goes with it.
    """

    container: Container
    space: Space
    gives_back: int


@record
class ImageUsage:
    """What one image, with its layers and its blobs, takes.

    Attributes:
        users: the names of its containers.
        gives_back: bytes that the removal of its last name would free now: none while it has
            containers, since it cannot be removed.
        gives_back_later: bytes that it would free once its containers are gone.
    """

    image: StoredImage
    users: tuple[str, ...]
    space: Space
    gives_back: int
    gives_back_later: int


@record
class SpareUsage:
    """What the containers that are kept ready of one image take, and would give back.

    Attributes:
        image: a name of it, or its id.
        ready: how many there are; one of them was measured.
    """

    image: str
    ready: int
    space: Space


@record
class CommonUsage:
    """What some images have in common.

    Attributes:
        images: a name of each, or its id.
        size: bytes on the disk that each of them has, and no other image.
    """

    images: tuple[str, ...]
    size: int


@record
class Usage:
    """What there is, in the order of ``Store.containers``, ``Store.images`` and ``Store.spares``.

    Attributes:
        common: what images share with each other, the most first.
        total: what they take together, each block counted once; ``own`` is what the removal of all
            of them would free.
        removed: bytes that what was removed, and is not deleted yet, has for its own.
    """

    containers: tuple[ContainerUsage, ...]
    images: tuple[ImageUsage, ...]
    spares: tuple[SpareUsage, ...]
    common: tuple[CommonUsage, ...]
    total: Space
    removed: int


def usage(parts: Parts, names: Sequence[str], progress: Progress | None) -> Usage:
    with parts.database.reading() as db:
        lower = dict(db.execute("SELECT id, parent FROM layers").fetchall())
        found = {one.layer: one for one in spares(parts) if one.ready}
        kept = _kept_layers(db, lower)
        stored = _Stored(containers(db, parts), images(db), lower, _blobs_by_users(db), found, kept)
        chosen = {one.id for name in names for one in find_either(db, name, parts)}
    shown_containers = [one for one in stored.containers if not names or one.id in chosen]
    shown_images = [one for one in stored.images if not names or one.id in chosen]
    needed = _needed(stored, shown_containers, shown_images)
    blocks = _measured(parts, stored, needed, progress)
    told_containers = tuple(_container_usage(one, stored, blocks) for one in shown_containers)
    told_images = tuple(_image_usage(one, stored, blocks) for one in shown_images)
    told_spares = tuple(_spare_usages(shown_images, stored, blocks))
    everything: set[Unit] = set().union(*map(stored.parts_of, shown_containers))
    everything.update(*map(stored.units_of, shown_images), *map(stored.spares_of, shown_images))
    total = blocks.space(everything, everything)
    common = tuple(_common(shown_images, stored, blocks))
    return Usage(told_containers, told_images, told_spares, common, total, _removed(parts))


def _removed(parts: Parts) -> int:
    trash = os.path.join(parts.layers, "trash")
    names: list[str] = []
    with failing(trash, "list"), suppress(FileNotFoundError):
        names = os.listdir(trash)
    return sum(tree.own for tree in measure_trees([os.path.join(trash, name) for name in names]))


@record
class _Stored:
    """What is on record."""

    containers: list[Container]
    images: list[StoredImage]
    lower: dict[str, str | None]  # the layer that each lies on
    blobs: dict[frozenset[str], list[str]]  # digests by the images that use them
    spares: dict[str, Spares]  # by layer
    kept: dict[str, set[str]]  # the layers that a container's checkpoints need, and those below

    def parts_of(self, container: Container) -> set[Unit]:
        """A container, and the layers of its checkpoints that its image has not."""
        if container.id not in self.kept:
            return {container.id}
        of_image = self.units_of(self.image_of(container))
        return {container.id, *self.kept[container.id] - of_image}

    def only_parts_of(self, container: Container) -> set[Unit]:
        """Those that no other container has."""
        mine = self.parts_of(container)
        if len(mine) == 1:
            return mine
        others = [other for other in self.containers if other.id in self.kept]
        return mine.difference(*(self.parts_of(one) for one in others if one.id != container.id))

    def units_of(self, image: StoredImage) -> set[Unit]:
        units: set[Unit] = {users for users in self.blobs if image.id in users}
        layer: str | None = image.layer
        while layer is not None:
            units.add(layer)
            layer = self.lower.get(layer)
        return units

    def spares_of(self, image: StoredImage) -> set[Unit]:
        return {f"{_SPARES}{image.layer}"} if image.layer in self.spares else set()

    def only_of(self, image: StoredImage) -> set[Unit]:
        """What no other image uses."""
        others = [other for other in self.images if other.id != image.id]
        return self.units_of(image).difference(*map(self.units_of, others))

    def going_with(self, image: StoredImage) -> set[Unit]:
        """What goes with an image: that, and its spares where no other image has its layer."""
        others = [other for other in self.images if other.id != image.id]
        return self.only_of(image) | self.spares_of(image).difference(*map(self.spares_of, others))

    def containers_of(self, image: StoredImage) -> list[Container]:
        return [one for one in self.containers if one.image_id == image.id]

    def image_of(self, container: Container) -> StoredImage:
        return next(one for one in self.images if one.id == container.image_id)


def _kept_layers(db: Connection, lower: Mapping[str, str | None]) -> dict[str, set[str]]:
    asked = "SELECT container, layer FROM checkpoints UNION SELECT container, layer FROM standing"
    kept: dict[str, set[str]] = {}
    for container, top in db.execute(asked):
        layer: str | None = top
        while layer is not None and layer not in kept.setdefault(container, set()):
            kept[container].add(layer)
            layer = lower.get(layer)
    return kept


def _blobs_by_users(db: Connection) -> dict[frozenset[str], list[str]]:
    users: dict[str, set[str]] = {}
    for image, digest in db.execute("SELECT image, digest FROM blobs"):
        users.setdefault(digest, set()).add(image)
    blobs: dict[frozenset[str], list[str]] = {}
    for digest, some in users.items():
        blobs.setdefault(frozenset(some), []).append(digest)
    return blobs


def _needed(
    stored: _Stored, shown: Iterable[Container], shown_images: Iterable[StoredImage]
) -> set[Unit]:
    """What has to be measured: what is shown, and what is likely to share blocks with it."""
    needed: set[Unit] = set()
    for container in shown:
        image = stored.image_of(container)
        needed |= stored.parts_of(container) | stored.units_of(image) | stored.spares_of(image)
    for image in shown_images:
        needed |= stored.units_of(image) | stored.spares_of(image)
        needed.update(*map(stored.parts_of, stored.containers_of(image)))
    return needed


def _container_usage(container: Container, stored: _Stored, blocks: _Blocks) -> ContainerUsage:
    alone = stored.only_parts_of(container)
    going = set(alone)
    image = stored.image_of(container)
    if not image.names and len(stored.containers_of(image)) == 1:
        going |= stored.going_with(image)
    space = blocks.space(stored.parts_of(container), alone)
    return ContainerUsage(container, space, blocks.freed(going))


def _image_usage(image: StoredImage, stored: _Stored, blocks: _Blocks) -> ImageUsage:
    space = blocks.space(stored.units_of(image), stored.only_of(image))
    users = stored.containers_of(image)
    gone: set[Unit] = set().union(*map(stored.parts_of, users))
    later = blocks.freed(gone | stored.going_with(image)) - blocks.freed(gone)
    names = tuple(one.name for one in users)
    return ImageUsage(image, names, space, 0 if users else later, later)


def _spare_usages(
    shown: Iterable[StoredImage], stored: _Stored, blocks: _Blocks
) -> Iterator[SpareUsage]:
    told: set[Unit] = set()
    for image in shown:
        for unit in stored.spares_of(image) - told:
            told.add(unit)
            called = image.names[0] if image.names else image.id
            space = blocks.space({unit}, {unit})
            yield SpareUsage(called, stored.spares[image.layer].ready, space)


def _common(
    shown: Sequence[StoredImage], stored: _Stored, blocks: _Blocks
) -> Iterator[CommonUsage]:
    """What images share, of which at least one is shown."""
    units = {image.id: stored.units_of(image) for image in stored.images}
    sizes: dict[frozenset[str], int] = {}
    pieces: list[tuple[Set[Unit | None], int]] = [
        ({unit}, one.own) for unit, one in blocks.units.items()
    ]
    pieces += blocks.shared.items()
    for owners, size in pieces:
        users = frozenset(image for image, some in units.items() if not some.isdisjoint(owners))
        sizes[users] = sizes.get(users, 0) + size
    called = {one.id: one.names[0] if one.names else one.id for one in stored.images}
    of_shown = {one.id for one in shown}
    for users, size in sorted(sizes.items(), key=lambda one: -one[1]):
        if len(users) > 1 and size and users & of_shown:
            yield CommonUsage(tuple(called[image] for image in called if image in users), size)


@record
class _Blocks:
    """What was measured: each unit by itself, and what several have in common."""

    units: dict[Unit, TreeUsage]
    shared: dict[frozenset[Unit | None], int]  # bytes by who has them; None: all that is unknown

    def freed(self, units: Set[Unit]) -> int:
        """Bytes that nothing has but ``units``."""
        return sum(self.units[unit].own for unit in units) + sum(
            size for owners, size in self.shared.items() if owners <= units
        )

    def held(self, units: Set[Unit]) -> int:
        """Bytes that any of ``units`` has."""
        return sum(self.units[unit].own for unit in units) + sum(
            size for owners, size in self.shared.items() if not owners.isdisjoint(units)
        )

    def space(self, units: Set[Unit], only: Set[Unit]) -> Space:
        """What ``units`` take, of which those that are in ``only`` have no other user."""
        own = self.freed(only)
        told = [self.units[unit] for unit in units]
        return Space(
            inodes=sum(one.inodes for one in told),
            size=sum(one.size for one in told),
            allocated=sum(one.allocated for one in told),
            shared=self.held(units) - own,
            own=own,
            untold=sum(self.units[unit].untold for unit in only),
            unread=sum(one.unread for one in told),
        )


def _measured(
    parts: Parts, stored: _Stored, needed: Set[Unit], progress: Progress | None
) -> _Blocks:
    folders = [unit for unit in needed if isinstance(unit, str)]
    paths = [_path_of(one, parts, stored) for one in folders]
    measured = measure_trees(paths, progress=progress)
    units: dict[Unit, TreeUsage] = dict(zip(folders, measured, strict=True))
    shared: dict[frozenset[Unit | None], int] = {}
    content = os.path.join(parts.root, "content")
    sets = [unit for unit in needed if not isinstance(unit, str)]
    for users in sets:
        units[users] = measure_files(content, [blob_name(digest) for digest in stored.blobs[users]])
    # No block of a blob is one of a folder, and they may be on different file systems.
    for some in (folders, sets):
        for bits, size in share_out([units[unit] for unit in some]).items():
            owners = frozenset(unit for at, unit in enumerate([None, *some]) if bits >> at & 1)
            shared[owners] = shared.get(owners, 0) + size
    for layer, found in stored.spares.items():
        unit = f"{_SPARES}{layer}"
        if unit in units:
            units[unit] = _times(units[unit], found.ready)
    return _Blocks(units, shared)


def _path_of(unit: str, parts: Parts, stored: _Stored) -> str:
    """The folder of a layer or container, or a spare."""
    layer = unit.removeprefix(_SPARES)
    return parts.folder(unit) if layer == unit else stored.spares[layer].paths[0]


def _times(one: TreeUsage, count: int) -> TreeUsage:
    """What so many trees take: they are the same, and share only what each of them does."""
    sums = ("inodes", "size", "allocated", "own", "untold", "unread")
    return replace(one, **{name: getattr(one, name) * count for name in sums})
