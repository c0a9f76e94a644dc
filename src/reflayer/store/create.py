"""A container is made: its image looked up, or pulled where it is not there, cloned, recorded."""

from __future__ import annotations

import time

from reflayer.errors import StoreError
from reflayer.store.collect import making
from reflayer.store.containers import checked_name, container_of, free_name, new_id
from reflayer.store.images import add_image
from reflayer.store.pull import pull_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.store.containers import Container
    from reflayer.store.parts import Parts
    from reflayer.store.pull import Pulled, Wanted


def create(parts: Parts, wanted: Wanted, name: str | None) -> Container:
    if name is not None:
        checked_name(name)
    with making(parts) as until:
        if name is not None:
            with parts.database.reading() as db:
                _refuse_taken(db, name)
        pulled = pull_image(wanted, parts, until)
        container_id = new_id()
        parts.driver.create(container_id, pulled.image.layer, progress=wanted.progress)
        with parts.database.writing() as db:
            return _record(db, parts, container_id, name, pulled)


def _record(
    db: Connection, parts: Parts, container_id: str, name: str | None, pulled: Pulled
) -> Container:
    """Record the image, its names and the container, all in one transaction."""
    if name is None:
        rows = db.execute("SELECT name FROM containers")
        name = free_name({row[0] for row in rows})
    else:
        _refuse_taken(db, name)
    add_image(db, pulled.image, pulled.blobs, pulled.stamp)
    image, created = pulled.image.id, time.time()
    db.execute(
        "INSERT INTO containers VALUES (?, ?, ?, ?, ?)",
        (container_id, name, image, pulled.called, created),
    )
    parts.remember_ownership(db)
    return container_of((container_id, name, pulled.called, image, created), parts)


def _refuse_taken(db: Connection, name: str) -> None:
    if db.execute("SELECT 1 FROM containers WHERE name = ?", (name,)).fetchone():
        raise StoreError(f"{name}: there is a container of this name: take another, or remove it")
