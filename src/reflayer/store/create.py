"""A container is made: its image brought, a clone of that, and the record of both."""

from __future__ import annotations

import time

from reflayer.errors import StoreError
from reflayer.images import Platform
from reflayer.store.bring import bring
from reflayer.store.containers import Container, add_container
from reflayer.store.making import making
from reflayer.store.names import checked_name, free_name, new_id
from reflayer.store.owners import remember_ownership
from reflayer.store.records import add_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.images.registry import Access
    from reflayer.progress import Progress
    from reflayer.store.bring import Brought
    from reflayer.store.parts import Parts


def create(
    parts: Parts,
    image: str,
    name: str | None,
    platform: str | None,
    pull: str,
    access: Access | None,
    progress: Progress | None,
) -> Container:
    """What ``Store.create`` does."""
    if pull not in ("missing", "always", "never"):
        raise ValueError(f"pull {pull!r} is none of missing, always, never")
    if name is not None:
        checked_name(name)
    wanted = None if platform is None else Platform.parse(platform)
    with making(parts) as until:
        if name is not None:
            with parts.database.reading() as db:
                _refuse_taken(db, name)
        brought = bring(image, wanted, pull, access, parts, until, progress)
        container_id = new_id()
        parts.driver.create(container_id, brought.image.layer, progress=progress)
        with parts.database.writing() as db:
            return _record(db, parts, container_id, name, brought)


def _record(
    db: Connection, parts: Parts, container_id: str, name: str | None, brought: Brought
) -> Container:
    """Record the image, its names and the container, all in one transaction."""
    if name is None:
        rows = db.execute("SELECT name FROM containers")
        name = free_name({row[0] for row in rows})
    else:
        _refuse_taken(db, name)
    image = brought.image
    add_image(db, image, brought.blobs, brought.stamp)
    container = Container(
        id=container_id,
        name=name,
        image=brought.called,
        image_id=image.id,
        created=time.time(),
        parts=parts,
    )
    add_container(db, container)
    remember_ownership(db, parts)
    return container


def _refuse_taken(db: Connection, name: str) -> None:
    if db.execute("SELECT 1 FROM containers WHERE name = ?", (name,)).fetchone():
        raise StoreError(f"{name}: there is a container of this name: take another, or remove it")
