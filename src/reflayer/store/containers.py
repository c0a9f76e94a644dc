"""Containers: their names, what the database tells of them, and how one is removed."""

from __future__ import annotations

import os

from reflayer.errors import (
    ImageError,
    StoreError,
    TakenNameError,
    UnknownNameError,
    did_you_mean,
    printable,
)
from reflayer.record import record
from reflayer.store.database import ids_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from sqlite3 import Connection
    from typing import Self

    from reflayer.store.parts import Parts
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.id_map import IdMap

_COLUMNS = """SELECT id, name, CASE
    WHEN image_name LIKE '%@sha%' -- a digest cannot become another image's
        OR EXISTS (SELECT 1 FROM names WHERE name = image_name AND image = containers.image)
    THEN image_name ELSE image END, image, created FROM containers"""
_MOODS = (
    "amber brisk calm clever eager fair fond gentle glad hardy keen kind lively lucid merry mild "
    "neat nimble patient plain proud quiet ready serene sharp steady sunny swift tidy warm wise"
)
_THINGS = (
    "alder anvil beacon birch bridge cedar cliff comet copper delta ember fern fjord flint grove "
    "harbor hazel lantern maple meadow mesa oak orchard pebble prairie quartz reef ridge river "
    "slate spruce summit timber valley willow"
)


@record
class Checkpoint:
    """What a container was at some time.

    Attributes:
        name: no other checkpoint of the container is called so.
        parent: the checkpoint that it goes on from; None for what the container was at first.
        created: when it was made, in seconds since 1970.
        size: bytes of the files that changed since its parent; of all where it is a clone.
        is_current: whether it is the last that the container stood on.
        layer: the id of its layer, in the driver's home.
    """

    name: str
    parent: str | None
    created: float
    size: int
    is_current: bool
    layer: str


@record
class Container:
    """One container; frozen. In a ``with`` statement it is removed at the end of the block.

    Attributes:
        id: 64 hexadecimal digits; the folder's name in the driver's home, too.
        name: its name, of which there is one in a store.
        image: what the image was called when the container was made from it; its id where it is
            called so no longer, as Docker tells it.
        image_id: the image's id.
        created: when that was, in seconds since 1970.
        path: its root file system.
    """

    id: str
    name: str
    image: str
    image_id: str
    created: float
    path: str
    _parts: Parts

    @property
    def id_map(self) -> IdMap | None:
        """The map by which its files have the host's ids; None: they have those of the image."""
        from reflayer.driver.maps import map_of

        return map_of(self._parts.layers, self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.do(remove_if_there, self._parts, self.id)

    def checkpoint(self, name: str | None = None, *, freeze: AnyPath | None = None) -> Checkpoint:
        """Keep what it is now, as ``Store.checkpoint``."""
        cgroup = None if freeze is None else os.fsdecode(freeze)
        made: Checkpoint = self._parts.say("checkpoint", self.id, name, cgroup)
        return made

    def rollback(self, checkpoint: str | None = None) -> Checkpoint | None:
        """Let it be again what it was, as ``Store.rollback``."""
        to: Checkpoint | None = self._parts.say("rollback", self.id, checkpoint)
        return to

    def fork(self, checkpoint: str | None = None, *, new: str | None = None) -> Container:
        """Make another one of what it is, or was at a checkpoint, as ``Store.fork``."""
        made: Container = self._parts.say("fork", self.id, checkpoint, new, 0)
        return made

    def checkpoints(self) -> list[Checkpoint]:
        """Its checkpoints, the oldest first."""
        return self._parts.do(checkpoints, self._parts, self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and (self.id, self.path) == (other.id, other.path)

    def __hash__(self) -> int:
        return hash((self.id, self.path))

    def __repr__(self) -> str:
        return f"<Container {self.name} of {self.image} at {self.path}>"


def containers(db: Connection, parts: Parts) -> list[Container]:
    rows = db.execute(f"{_COLUMNS} ORDER BY created DESC, id")
    return [container_of(row, parts) for row in rows]


def find_container(db: Connection, name: str, parts: Parts) -> Container:
    """The container with this id, name or beginning of an id, in this order, as Docker does."""
    container = look_for_container(db, name, parts)
    if container is None:
        names = [row[0] for row in db.execute("SELECT name FROM containers")]
        close = did_you_mean(name, names) or ": reflayer ps lists them"
        if _is_image(db, name):
            close = ", but an image: reflayer create makes one of it, reflayer rmi removes it"
        raise UnknownNameError(f"{printable(name)}: no such container{close}")
    return container


def _is_image(db: Connection, text: str) -> bool:
    """Whether an image is called so."""
    from reflayer.images.transports import registry_reference

    try:
        name = str(registry_reference(text) or text)
    except ImageError:
        return False
    return db.execute("SELECT 1 FROM names WHERE name = ?", (name,)).fetchone() is not None


def look_for_container(db: Connection, name: str, parts: Parts) -> Container | None:
    """As ``find_container``; None where there is none."""
    for column in ("id", "name"):
        if row := db.execute(f"{_COLUMNS} WHERE {column} = ?", (name,)).fetchone():
            return container_of(row, parts)
    ids = ids_with(db, "containers", name)
    if len(ids) > 1:
        raise StoreError(f"{name}: the ids of {len(ids)} containers begin so: give more digits")
    return look_for_container(db, ids[0], parts) if ids else None


def require_folder(container: Container) -> None:
    """Raise StoreError where a container's folder is gone."""
    if not os.path.isdir(container.path):
        raise StoreError(f"{container.name}: its folder is gone: reflayer rm {container.name}")


def container_of(row: tuple[str, str, str, str, float], parts: Parts) -> Container:
    """The container of id, name, image, the image's id and time."""
    return Container(*row, f"{parts.home}/{row[0]}", parts)


def checkpoints(parts: Parts, container: str) -> list[Checkpoint]:
    with parts.database.reading() as db:
        return checkpoints_of(db, find_container(db, container, parts))


def checkpoints_of(db: Connection, one: Container, name: str | None = None) -> list[Checkpoint]:
    """All of a container, the oldest first, or that which is called ``name``."""
    standing = db.execute("SELECT checkpoint FROM standing WHERE container = ?", (one.id,))
    current = (standing.fetchone() or (None,))[0]
    rows = db.execute(
        "SELECT name, parent, created, size, layer FROM checkpoints WHERE container = ?"
        f"{' AND name = ?' if name is not None else ''} ORDER BY created, name",
        (one.id,) if name is None else (one.id, name),
    )
    return [
        Checkpoint(called, parent, created, size, called == current, layer)
        for called, parent, created, size, layer in rows
    ]


def is_unfinished(db: Connection, container: Container) -> bool:
    """Whether a rollback of the container was cut off."""
    asked = "SELECT 1 FROM standing WHERE container = ? AND is_unfinished"
    return db.execute(asked, (container.id,)).fetchone() is not None


def remove_container(
    parts: Parts,
    name: str,
    wait: bool = True,
    recycle: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Container:
    from reflayer.store.collect import collect, marked, tidy, with_room

    with parts.database.reading() as db:
        container = find_container(db, name, parts)
        asked = "SELECT 1 FROM standing WHERE container = ?"
        has_layers = db.execute(asked, (container.id,)).fetchone() is not None
    with marked(parts, needs_room=False) as agree:
        # The folder first: one that cannot be removed still has its record.
        reason = parts.driver.remove(container.id, wait=wait, recycle=recycle)
        with_room(parts, lambda: _forget(parts, container.id))
        is_used = _is_used(parts, container.image_id)
        if is_used and not has_layers:
            agree()
    (tidy if is_used and not has_layers else collect)(parts, wait=wait)
    if reason and warn is not None:
        warn(f"{container.name} was deleted, not recycled: {reason}")
    return container


def remove_if_there(parts: Parts, id: str) -> None:
    with parts.database.reading() as db:
        is_there = db.execute("SELECT 1 FROM containers WHERE id = ?", (id,)).fetchone()
    if is_there:
        remove_container(parts, id)


def _forget(parts: Parts, id: str) -> None:
    with parts.database.writing() as db:
        db.execute("DELETE FROM containers WHERE id = ?", (id,))


def _is_used(parts: Parts, image: str) -> bool:
    from reflayer.store.collect import USED

    with parts.database.reading() as db:
        unused = db.execute(f"SELECT 1 FROM images WHERE id = ? AND NOT {USED}", (image,))
        return unused.fetchone() is None


def new_id() -> str:
    return os.urandom(32).hex()


def checked_name(name: str) -> str:
    """``name``, if a container may be called so, by Docker's rule."""
    is_plain = name.isascii() and all(one.isalnum() or one in "_.-" for one in name)  # without re
    if not is_plain or len(name) < 2 or not name[0].isalnum():
        raise StoreError(
            f"{printable(name)!r} is no name for a container: it takes two or more of "
            "a-z, A-Z, 0-9, '_', '.' and '-', and begins with a letter or digit"
        )
    return name


def free_name(db: Connection) -> str:
    """A name in Docker's manner that no container has: two words, and a number if need be."""
    most = 0
    while True:
        number = _random() % most if most else ""
        name = f"{_one_of(_MOODS)}_{_one_of(_THINGS)}{number}"
        if not is_taken(db, name):
            return name
        most = most * 10 or 10  # so the tries are few, however many there are


def is_taken(db: Connection, name: str) -> bool:
    """Whether there is a container of this name."""
    return db.execute("SELECT 1 FROM containers WHERE name = ?", (name,)).fetchone() is not None


def refuse_taken(db: Connection, name: str) -> None:
    """Raise TakenNameError where there is a container of this name."""
    if is_taken(db, name):
        raise TakenNameError(
            f"{name}: there is a container of this name: take another, or remove it"
        )


def _one_of(choice: str) -> str:
    words = choice.split()
    return words[_random() % len(words)]


def _random() -> int:
    return int.from_bytes(os.urandom(4), "big")
