"""What nobody needs any more goes, and so does what a crash left."""

from __future__ import annotations

import os

from reflayer.errors import OperationError, StoreError
from reflayer.store.locks import locked_at_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.images import Descriptor
    from reflayer.store.parts import Parts

_USED = (  # an image that has lost its names stays while there are containers of it
    "SELECT id FROM images WHERE id IN (SELECT image FROM names) "
    "OR id IN (SELECT image FROM containers)"
)


def collect(parts: Parts, *, wait: bool = False) -> None:
    """Make folders, blobs, tags and records agree, unless somebody is making some right now.

    Args:
        parts: the store's.
        wait: wait until folders are deleted; otherwise that goes on behind.

    Raises:
        OperationError: something could not be removed.
        StoreError: the database failed, or half of the store is missing.
    """
    with locked_at_once(parts.lock) as alone:
        if alone:
            _refuse_a_half(parts)
            _forget_the_gone(parts)
            _remove_folders(parts, wait)
            _remove_blobs(parts)
            _forget_the_unused(parts)
            _tag(parts)
            _remove_locks(parts)


def agree(parts: Parts) -> bool:
    """Whether folders and records agree: a look that costs less than a collection.

    Raises:
        OperationError: the folders cannot be read.
        StoreError: the database cannot.
    """
    with parts.database.reading() as db:
        unused = _column(db, f"SELECT id FROM images WHERE id NOT IN ({_USED})")
        folders = _column(db, "SELECT id FROM layers UNION SELECT id FROM containers")
    return not unused and folders == set(parts.driver.list())


def _refuse_a_half(parts: Parts) -> None:
    """All folders or all records are gone: no crash does that, and the rest is not garbage."""
    there = set(parts.driver.list())
    home = os.path.dirname(parts.home)
    if there and not parts.database.is_made():
        raise StoreError(
            f"{parts.root}: there are containers or layers in {home}, but no database: put it "
            "back, or remove all to begin anew"
        )
    with parts.database.reading() as db:
        needed = _needed_folders(db)
    if needed and not needed & there:
        raise StoreError(
            f"{home}: all containers and layers are gone: is a file system not mounted? Or remove "
            f"{parts.root} to begin anew"
        )


def _forget_the_gone(parts: Parts) -> None:
    """Records whose folder is not there: its removal was cut short, or somebody deleted it."""
    there = set(parts.driver.list())
    for table in ("containers", "layers"):
        with parts.database.reading() as db:
            gone = _column(db, f"SELECT id FROM {table}") - there
        if gone:
            with parts.database.writing() as db:
                db.executemany(f"DELETE FROM {table} WHERE id = ?", [(one,) for one in gone])


def _remove_folders(parts: Parts, wait: bool) -> None:
    with parts.database.reading() as db:
        needed = _needed_folders(db)
    for folder in set(parts.driver.list()) - needed:
        parts.driver.remove(folder, wait=wait)


def _needed_folders(db: Connection) -> frozenset[str]:
    used = f"SELECT layer FROM images WHERE id IN ({_USED})"
    layers = _column(db, f"SELECT id FROM layers WHERE id IN ({used})")
    return layers | _column(db, "SELECT id FROM containers")


def _remove_blobs(parts: Parts) -> None:
    from reflayer.images.ingest import expire

    with parts.database.reading() as db:
        needed = _column(db, f"SELECT digest FROM blobs WHERE image IN ({_USED})")
    for digest in set(parts.content.digests()) - needed:
        parts.content.delete(digest)
    expire(parts.content.folder)


def _forget_the_unused(parts: Parts) -> None:
    """The last step, so that a full disk does not keep the others from making space."""
    with parts.database.writing() as db:
        db.execute(f"DELETE FROM images WHERE id NOT IN ({_USED})")
        db.execute("DELETE FROM layers WHERE id NOT IN (SELECT layer FROM images)")


def _tag(parts: Parts) -> None:
    """Name the images in the content's index, for skopeo and others who read it in place.

    An image is tagged by its references; one that has none, by the digits of its id, as paths are
    no tags (OCI image-spec, annotations.md: org.opencontainers.image.ref.name).
    """
    from reflayer.store.records import descriptor

    wanted: dict[str, Descriptor] = {}
    with parts.database.reading() as db:
        rows = db.execute("SELECT id, manifest FROM images WHERE manifest NOTNULL").fetchall()
        for image, text in rows:
            names = _column(db, "SELECT name FROM names WHERE image = ?", image)
            references = {name for name in names if ":/" not in name}
            for tag in references or {image.partition(":")[2]}:
                wanted[tag] = descriptor(text)
    tagged = {tag: there.digest for tag, there in parts.content.tags().items()}
    for tag in tagged.keys() - wanted.keys():
        parts.content.untag(tag)
    for tag, manifest in wanted.items():
        if tagged.get(tag) != manifest.digest:
            parts.content.tag(tag, manifest)


def _remove_locks(parts: Parts) -> None:
    """The lock files of single chains; whoever wants one shares the store's lock first."""
    try:
        for name in os.listdir(parts.locks):
            os.unlink(parts.lock_of(name))
    except OSError as error:
        where = os.fsencode(error.filename or parts.locks)
        raise OperationError.from_os_error(error, where, "unlink") from error


def _column(db: Connection, query: str, *values: str) -> frozenset[str]:
    return frozenset(row[0] for row in db.execute(query, values))
