"""What changes the names of images, or takes images away."""

from __future__ import annotations

import os

from reflayer.errors import InUseError, StoreError
from reflayer.store.collect import collect, dirtying, with_room
from reflayer.store.images import find, find_image, image_with_id, images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.store.images import StoredImage
    from reflayer.store.parts import Parts


def tag(parts: Parts, text: str, name: str) -> StoredImage:
    from reflayer.images.transports import new_name

    reference = new_name(name)
    find(parts, text)  # nothing is made in order to name what is not there
    with dirtying(parts), parts.database.writing() as db:
        known, _ = find_image(db, text)
        db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, '')", (str(reference), known.id))
        known = image_with_id(db, known.id)
    collect(parts)  # what was called so
    return known


def remove_image(parts: Parts, text: str, wait: bool, force: bool) -> StoredImage | None:
    find(parts, text)  # nothing is made in order to remove what is not there
    with dirtying(parts), parts.database.writing() as db:
        found, name = find_image(db, text)
        gone = _unname(db, found, name, force)
    collect(parts, wait=wait)
    return found if gone else None


def _unname(db: Connection, image: StoredImage, name: str | None, force: bool) -> bool:
    """Take ``name`` from ``image``, or the one that it has; tell whether the image goes by that."""
    others = [other for other in image.names if other != name]
    if name is not None and others:
        db.execute("DELETE FROM names WHERE name = ?", (name,))
        return False
    if len(others) > 1 and not force:
        raise StoreError(
            f"image {image.id[:19]} has {len(others)} names: remove them one by one: "
            f"{', '.join(others)}, or all by --force"
        )
    rows = db.execute("SELECT name FROM containers WHERE image = ? ORDER BY name", (image.id,))
    users = [row[0] for row in rows]
    if users and force:
        db.execute("DELETE FROM names WHERE image = ?", (image.id,))
        return False
    if users:
        called = name or image.id[:19]
        raise InUseError(f"{called}: is in use: remove its containers first: {', '.join(users)}")
    db.execute("DELETE FROM images WHERE id = ?", (image.id,))
    return True


def prune(parts: Parts, everything: bool) -> list[StoredImage]:
    gone: list[StoredImage] = []
    if not os.path.isdir(parts.root):
        return gone
    with parts.database.reading() as db:
        used = {row[0] for row in db.execute("SELECT image FROM containers")}
        if everything:
            gone = [one for one in images(db) if one.id not in used]
    if gone:
        with_room(parts, lambda: _forget(parts, gone))
    collect(parts, wait=True)
    parts.driver.empty_trash()
    return gone


def _forget(parts: Parts, gone: list[StoredImage]) -> None:
    """Forget images, unless a container of them has been made meanwhile."""
    unused = "DELETE FROM images WHERE id = ? AND id NOT IN (SELECT image FROM containers)"
    with dirtying(parts), parts.database.writing() as db:
        db.executemany(unused, [(one.id,) for one in gone])
