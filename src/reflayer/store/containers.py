"""Containers: what the database tells of them, and how it is asked and told."""

from __future__ import annotations

import os

from reflayer.errors import StoreError, printable
from reflayer.store.ids import ids_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection
    from typing import NoReturn

_COLUMNS = """SELECT id, name, CASE
    WHEN image_name LIKE '%@sha%' -- a digest cannot become another image's
        OR EXISTS (SELECT 1 FROM names WHERE name = image_name AND image = containers.image)
    THEN image_name ELSE image END, image, created FROM containers"""


class Container:
    """One container; frozen.

    No dataclass: to import ``dataclasses`` takes longer than to find a container.

    Attributes:
        id: 64 hexadecimal digits; the folder's name in the driver's home, too.
        name: its name, of which there is one in a store.
        image: what the image was called when the container was made from it; its id where it is
            called so no longer, as Docker tells it.
        image_id: the image's id.
        created: when that was, in seconds since 1970.
        path: its root file system.
    """

    __slots__ = ("created", "id", "image", "image_id", "name", "path")

    id: str
    name: str
    image: str
    image_id: str
    created: float
    path: str

    def __init__(
        self, id: str, name: str, image: str, image_id: str, created: float, path: str
    ) -> None:
        for attribute, value in (
            ("id", id),
            ("name", name),
            ("image", image),
            ("image_id", image_id),
            ("created", created),
            ("path", path),
        ):
            object.__setattr__(self, attribute, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a container's record is frozen: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and (self.id, self.path) == (other.id, other.path)

    def __hash__(self) -> int:
        return hash((self.id, self.path))

    def __repr__(self) -> str:
        return f"<Container {self.name} of {self.image} at {self.path}>"


def containers(db: Connection, home: str) -> list[Container]:
    """All containers, the newest first; their folders are in ``home``."""
    rows = db.execute(f"{_COLUMNS} ORDER BY created DESC, id")
    return [_container(row, home) for row in rows]


def find_container(db: Connection, name: str, home: str) -> Container:
    """The container with this id, name or beginning of an id, in this order, as Docker does.

    Raises:
        StoreError: there is none, or more than one.
    """
    row = (
        db.execute(f"{_COLUMNS} WHERE id = ?", (name,)).fetchone()
        or db.execute(f"{_COLUMNS} WHERE name = ?", (name,)).fetchone()
    )
    if row is not None:
        return _container(row, home)
    ids = ids_with(db, "containers", name)
    if len(ids) > 1:
        raise StoreError(f"{name}: the ids of {len(ids)} containers begin so: give more digits")
    if not ids:
        raise StoreError(f"{printable(name)}: no such container (reflayer ps lists them)")
    return find_container(db, ids[0], home)


def container_with_folder(db: Connection, name: str, home: str) -> Container:
    """As ``find_container``, for who wants what is in it.

    Raises:
        StoreError: there is none, or more than one, or its folder is gone.
    """
    container = find_container(db, name, home)
    if not os.path.isdir(container.path):
        raise StoreError(f"{container.name}: its folder is gone: reflayer rm {container.name}")
    return container


def _container(row: tuple[str, str, str, str, float], home: str) -> Container:
    return Container(*row, path=f"{home}/{row[0]}")


def add_container(db: Connection, container: Container) -> None:
    """Record a container, whose folder is there and whose name is free."""
    db.execute(
        "INSERT INTO containers VALUES (?, ?, ?, ?, ?)",
        (
            container.id,
            container.name,
            container.image_id,
            container.image,
            container.created,
        ),
    )
