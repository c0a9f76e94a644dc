"""What containers and images take on disk, and what their removal would give back."""

from __future__ import annotations

import os
from dataclasses import dataclass

from reflayer.errors import OperationError
from reflayer.extents import measure_trees
from reflayer.store.blocks import measured
from reflayer.store.containers import Container, containers
from reflayer.store.find import find_either
from reflayer.store.records import StoredImage, images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from sqlite3 import Connection

    from reflayer.progress import Progress
    from reflayer.store.blocks import Blocks, Space, Unit
    from reflayer.store.parts import Parts


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """What one container takes.

    Attributes:
        container: its record.
        space: what its folder takes.
        gives_back: bytes that its removal would free: its own, and its image's where the image has
            no name any more and goes with it.
    """

    container: Container
    space: Space
    gives_back: int


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """What one image takes.

    Attributes:
        image: its record.
        users: the names of its containers.
        space: what its folder and its blobs take.
        gives_back: bytes that the removal of its last name would free now: none while it has
            containers, since it cannot be removed.
        gives_back_later: bytes that it would free once its containers are gone.
    """

    image: StoredImage
    users: tuple[str, ...]
    space: Space
    gives_back: int
    gives_back_later: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What there is, in the order of ``Store.containers`` and ``Store.images``.

    Attributes:
        containers: what each container takes.
        images: what each image takes.
        total: what they take together, each block counted once; ``own`` is what the removal of all
            of them would free.
        removed: bytes that what was removed, and is not deleted yet, has for its own.
    """

    containers: tuple[ContainerUsage, ...]
    images: tuple[ImageUsage, ...]
    total: Space
    removed: int


def usage(parts: Parts, names: Sequence[str], progress: Progress | None) -> Usage:
    """What all, or the containers and images of these ``names``, take.

    Raises:
        StoreError: one of ``names`` is neither, or the beginning of several ids.
        OperationError: something cannot be read for another reason than its permissions.
    """
    with parts.database.reading() as db:
        stored = _Stored(
            tuple(containers(db, parts)), tuple(images(db)), _blobs_by_users(db)
        )  # fmt: skip
        chosen = _chosen(db, names, parts) if names else None
    shown_containers = [one for one in stored.containers if chosen is None or one.id in chosen]
    shown_images = [one for one in stored.images if chosen is None or one.id in chosen]
    blocks = measured(
        parts, _needed(stored, shown_containers, shown_images), stored.blobs, progress
    )
    told_containers = tuple(_container_usage(one, stored, blocks) for one in shown_containers)
    told_images = tuple(_image_usage(one, stored, blocks) for one in shown_images)
    everything: set[Unit] = {one.id for one in shown_containers}
    for image in shown_images:
        everything |= stored.units_of(image)
    total = blocks.space(everything, everything)
    return Usage(told_containers, told_images, total, _removed(parts))


def _removed(parts: Parts) -> int:
    trash = os.path.join(parts.root, "layers", "trash")
    try:
        names = os.listdir(trash)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(trash), "list") from error
    return sum(tree.own for tree in measure_trees([os.path.join(trash, name) for name in names]))


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is on record.

    Attributes:
        containers: all of them.
        images: all of them.
        blobs: digests by the images that use them.
    """

    containers: tuple[Container, ...]
    images: tuple[StoredImage, ...]
    blobs: dict[frozenset[str], list[str]]

    def units_of(self, image: StoredImage) -> set[Unit]:
        """All that ``image`` uses."""
        return {image.layer, *(users for users in self.blobs if image.id in users)}

    def only_of(self, image: StoredImage) -> set[Unit]:
        """What no other image uses."""
        others = [other for other in self.images if other.id != image.id]
        return self.units_of(image).difference(*map(self.units_of, others))

    def containers_of(self, image: StoredImage) -> list[Container]:
        """The containers that were made from it."""
        return [one for one in self.containers if one.image_id == image.id]

    def image_of(self, container: Container) -> StoredImage:
        """The image that it was made from."""
        return next(one for one in self.images if one.id == container.image_id)


def _blobs_by_users(db: Connection) -> dict[frozenset[str], list[str]]:
    users: dict[str, set[str]] = {}
    for image, digest in db.execute("SELECT image, digest FROM blobs"):
        users.setdefault(digest, set()).add(image)
    blobs: dict[frozenset[str], list[str]] = {}
    for digest, some in users.items():
        blobs.setdefault(frozenset(some), []).append(digest)
    return blobs


def _chosen(db: Connection, names: Iterable[str], parts: Parts) -> set[str]:
    """The ids of the containers and images that are meant."""
    return {one.id for name in names for one in find_either(db, name, parts)}


def _needed(
    stored: _Stored, shown: Iterable[Container], shown_images: Iterable[StoredImage]
) -> set[Unit]:
    """What has to be measured: what is shown, and who is most likely to share with it."""
    needed: set[Unit] = set()
    for container in shown:
        needed |= {container.id} | stored.units_of(stored.image_of(container))
    for image in shown_images:
        needed |= stored.units_of(image)
        needed.update(one.id for one in stored.containers_of(image))
    return needed


def _container_usage(container: Container, stored: _Stored, blocks: Blocks) -> ContainerUsage:
    alone: set[Unit] = {container.id}
    going = set(alone)
    image = stored.image_of(container)
    if not image.names and len(stored.containers_of(image)) == 1:
        going |= stored.only_of(image)
    return ContainerUsage(container, blocks.space(alone, alone), blocks.freed(going))


def _image_usage(image: StoredImage, stored: _Stored, blocks: Blocks) -> ImageUsage:
    only = stored.only_of(image)
    space = blocks.space(stored.units_of(image), only)
    users = stored.containers_of(image)
    gone: set[Unit] = {one.id for one in users}
    later = blocks.freed(gone | only) - blocks.freed(gone)
    names = tuple(one.name for one in users)
    return ImageUsage(image, names, space, 0 if users else space.own, later)
