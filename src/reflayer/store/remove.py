"""A container goes, or an image, or only one of an image's names."""

from __future__ import annotations

import os

from reflayer.errors import StoreError
from reflayer.store.collect import agree, collect, with_room
from reflayer.store.containers import Container, find_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage


def remove_container(parts: Parts, name: str, wait: bool) -> Container:
    """What ``Store.remove_container`` does."""
    with parts.database.reading() as db:
        container = find_container(db, name, parts)
    # The folder first: a record whose folder is gone is forgotten by the next collection, and
    # a folder that cannot be removed still has its record.
    parts.driver.remove(container.id, wait=wait)
    with_room(parts, lambda: _forget(parts, container.id))
    if not agree(parts):  # the image may have gone with it
        collect(parts, wait=wait)
    return container


def _forget(parts: Parts, id: str) -> None:
    with parts.database.writing() as db:
        db.execute("DELETE FROM containers WHERE id = ?", (id,))


def remove_image(parts: Parts, name: str, wait: bool, force: bool) -> StoredImage | None:
    """What ``Store.remove_image`` does."""
    from reflayer.store.find import find_image

    with parts.database.reading() as db:
        find_image(db, name)  # nothing is made in order to remove what is not there
    with parts.database.writing() as db:
        image, found = find_image(db, name)
        gone = _unname(db, image, found, force)
    collect(parts, wait=wait)
    return image if gone else None


def prune(parts: Parts, everything: bool) -> list[StoredImage]:
    """What ``Store.prune`` does."""
    from reflayer.store.records import images

    gone: list[StoredImage] = []
    if not os.path.isdir(parts.root):
        return gone
    with parts.database.reading() as db:
        used = {row[0] for row in db.execute("SELECT image FROM containers")}
        if everything:
            gone = [image for image in images(db) if image.id not in used]
    if gone:
        with_room(parts, lambda: _forget_images(parts, gone))
    collect(parts, wait=True)
    parts.driver.empty_trash()
    return gone


def _forget_images(parts: Parts, gone: list[StoredImage]) -> None:
    """Forget images, unless a container of them has been made meanwhile."""
    with parts.database.writing() as db:
        db.executemany(
            "DELETE FROM images WHERE id = ? AND id NOT IN (SELECT image FROM containers)",
            [(image.id,) for image in gone],
        )


def _unname(db: Connection, image: StoredImage, name: str | None, force: bool) -> bool:
    """Take ``name`` from ``image``, or the one that it has; tell whether the image goes by that."""
    others = [other for other in image.names if other != name]
    if name is not None and others:
        db.execute("DELETE FROM names WHERE name = ?", (name,))
        return False
    if len(others) > 1 and not force:
        raise StoreError(
            f"image {image.id[:19]} has {len(others)} names: remove them one by one: "
            + ", ".join(others)
            + ", or all by --force"
        )
    rows = db.execute("SELECT name FROM containers WHERE image = ? ORDER BY name", (image.id,))
    users = [row[0] for row in rows]
    if users and force:
        db.execute("DELETE FROM names WHERE image = ?", (image.id,))
        return False
    if users:
        containers = ", ".join(users)
        raise StoreError(
            f"{name or image.id[:19]}: is in use: remove its containers first: {containers}"
        )
    db.execute("DELETE FROM images WHERE id = ?", (image.id,))
    return True
