"""What nobody needs any more goes, and so does what a crash left."""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.errors import NO_ROOM, OperationError, StoreError
from reflayer.store.locks import locked_at_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
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
        if not alone:
            return
        _refuse_without_folders(parts)
        try:
            _forget(parts)
            is_forgotten = True
        except StoreError:  # where the disk is full, what they were of makes room
            is_forgotten = False
        _remove_folders(parts, wait)
        _remove_blobs(parts)
        if not is_forgotten:
            with_room(parts, lambda: _forget(parts))
        try:
            with_room(parts, lambda: _tag(parts))
        except OperationError as error:
            if error.errno not in NO_ROOM:  # then the next collection does it
                raise
        _remove_locks(parts)


def with_room(parts: Parts, step: Callable[[], None]) -> None:
    """Do ``step``, and if that fails once more when all that was removed is deleted.

    Raises:
        OperationError, StoreError: it failed again.
    """
    try:
        step()
    except (OperationError, StoreError):
        with suppress(OperationError):  # it tells of something else
            parts.driver.empty_trash()
        step()


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


def _refuse_without_folders(parts: Parts) -> None:
    """All folders are gone: no crash does that, and the records are not garbage."""
    there = set(parts.driver.list())
    with parts.database.reading() as db:
        needed = _needed_folders(db)
    if needed and not needed & there:
        raise StoreError(
            f"{os.path.dirname(parts.home)}: all containers and layers are gone: is a file system "
            f"not mounted? Or remove {parts.root} to begin anew"
        )


def _forget(parts: Parts) -> None:
    """Records of what no name or container needs, and of what is gone.

    A folder is not there if its removal was cut short, or somebody deleted it. The record goes
    before the folder: on a full disk it may be deleted where it is, and half there after a crash.
    """
    there = set(parts.driver.list())
    with parts.database.writing() as db:
        for table in ("containers", "layers"):
            gone = _column(db, f"SELECT id FROM {table}") - there
            db.executemany(f"DELETE FROM {table} WHERE id = ?", [(one,) for one in gone])
        db.execute(f"DELETE FROM images WHERE id NOT IN ({_USED})")
        db.execute("DELETE FROM layers WHERE id NOT IN (SELECT layer FROM images)")


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
    from reflayer.images.content.partial_download import expire

    with parts.database.reading() as db:
        needed = _column(db, f"SELECT digest FROM blobs WHERE image IN ({_USED})")
    for digest in set(parts.content.digests()) - needed:
        parts.content.delete(digest)
    expire(parts.content.folder)


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
            references = {name for name in names if ":/" not in name and ":-" not in name}
            for tag in references or {image.partition(":")[2]}:
                wanted[tag] = descriptor(text)
    tagged = {tag: there.digest for tag, there in parts.content.tags().items()}
    if tagged != {tag: manifest.digest for tag, manifest in wanted.items()}:
        parts.content.set_tags(wanted)


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
