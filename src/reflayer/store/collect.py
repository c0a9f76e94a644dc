"""Garbage: what no record needs any more goes, and so does what a crash left.

A SIGKILL leaves folders, records that do not agree with them, or blobs that no record needs. To
look for them takes a comparison of all that there is; so whatever may leave some is noted before,
by a file in ``locks/``, and where there is none that is all the look that a command takes:

- Who makes or removes a container claims a mark (``marked``), and takes it away when its folder and
  its record agree. Where he dies before, it is abandoned.
- ``dirty`` is made before any blobs (or tags in the content's index), the lock file of a layer
  before that is unpacked. Only a whole collection takes them away.

What is deleted from outside is found by whoever wants it, and by the next collection.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager, suppress

from reflayer.errors import NO_ROOM, OperationError, ReflayerError, StoreError, failing
from reflayer.workers.lock import claim_new, claims, locked, take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Set
    from sqlite3 import Connection

    from reflayer.images.model.descriptor import Descriptor
    from reflayer.store.parts import Parts

_MARKS = 100  # at the most at once: each is an open file

# An image that has lost its names stays while there are containers of it. (SQLite makes a table of
# its own for each "IN (SELECT ...)", which takes longer than all else in a look.)
USED = (
    "(EXISTS (SELECT 1 FROM names WHERE image = images.id)"
    " OR EXISTS (SELECT 1 FROM containers WHERE image = images.id))"
)
_STACKS = f"""WITH RECURSIVE needed (id, parent) AS (
    SELECT layers.id, parent FROM images JOIN layers ON layers.id = images.layer WHERE {USED}
    UNION SELECT layers.id, layers.parent FROM checkpoints JOIN layers ON layers.id = layer
    UNION SELECT layers.id, layers.parent FROM standing JOIN layers ON layers.id = layer
    UNION SELECT layers.id, layers.parent FROM needed JOIN layers ON layers.id = needed.parent
)"""
_NEEDED = f"{_STACKS} SELECT id FROM needed UNION ALL SELECT id FROM containers"  # folders
# Layers without one that they lie on: no crash does that, but then they are of no use.
_BROKEN = """WITH RECURSIVE broken (id) AS (
    SELECT id FROM layers WHERE parent NOTNULL AND parent NOT IN (SELECT id FROM layers)
    UNION SELECT layers.id FROM broken JOIN layers ON layers.parent = broken.id
) SELECT id FROM broken"""


@contextmanager
def making(parts: Parts) -> Iterator[ExitStack]:
    """Share the store's lock while the block runs, so that nothing is collected before its record.

    What is left over is collected before and after that. What is yielded gets all that has to be
    held until the end of the block.
    """
    parts.make_folders()
    parts.database.make()
    if _is_empty(parts.home):
        _refuse_without_folders(parts)
    content = os.path.join(parts.root, "content")
    if _names_in(os.path.join(content, "ingest")):
        from reflayer.images.content.partial_download import expire

        expire(content)
    tidy(parts)
    try:
        with locked(parts.lock, shared=True), ExitStack() as until:
            yield until
    finally:
        with suppress(ReflayerError):  # then the next start tells, before it makes anything
            tidy(parts)


@contextmanager
def dirtying(parts: Parts) -> Iterator[None]:
    """Share the store's lock while records go in the block, after which ``collect`` is called."""
    parts.make_folders()
    with locked(parts.lock, shared=True):
        mark_dirty(parts)
        yield


def mark_dirty(parts: Parts) -> None:
    """Have a whole collection follow, be it the next start's; the store's lock is shared."""
    path = parts.lock_of("dirty")
    try:
        with failing(path, "open"):
            os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OperationError as error:
        if error.errno not in NO_ROOM:  # where no blob can be made, either
            raise


@contextmanager
def marked(parts: Parts, *, needs_room: bool = True) -> Iterator[Callable[[], None]]:
    """Have a whole collection follow if folders and records may not agree at the end of the block.

    What has no need of room does the block without a mark where the disk has none for it.

    Yields:
        What the block has to call when they agree.
    """
    parts.refuse_unwritable()
    parts.check_ids()
    try:
        mark = claim_new(parts.locks, "mark")
    except OperationError as error:
        if needs_room or error.errno not in NO_ROOM:
            raise
        yield lambda: None
        return
    try:
        yield mark.release
    finally:
        mark.abandon()


def tidy(parts: Parts, *, wait: bool = False) -> None:
    """``collect`` if there may be something to collect."""
    names = _names_in(parts.locks)
    marks = claims(names)
    if marks.issuperset(names):
        for mark in map(take, map(parts.lock_of, marks)):
            if mark is not None:
                mark.abandon()
                break
        else:
            return
    collect(parts, wait=wait)


def collect(parts: Parts, *, wait: bool = False) -> None:
    """Make folders, blobs, tags and records agree, unless some are being made right now."""
    with locked(parts.lock, wait=False) as alone, ExitStack() as until:
        if not alone:
            return
        names = _names_in(parts.locks)
        # Before anything is looked at: what its maker did is there by then. Whoever removes a
        # container does not share the lock, and his mark stays.
        marks = list(filter(None, map(take, map(parts.lock_of, sorted(claims(names))[:_MARKS]))))
        for mark in marks:
            until.callback(mark.abandon)
        _refuse_without_folders(parts)
        try:
            _forget(parts)
            is_forgotten = True
        except StoreError:  # where the disk is full, what they were of makes room
            is_forgotten = False
        _end_spares(parts)
        there, needed = _folders(parts)
        for folder in _from_the_top(there - needed, parts):
            parts.driver.remove(folder, wait=wait)
        _remove_blobs(parts)
        if not is_forgotten:
            with_room(parts, lambda: _forget(parts))
        try:
            with_room(parts, lambda: _tag(parts))
        except OperationError as error:
            if error.errno not in NO_ROOM:
                raise
            mark_dirty(parts)  # the next collection does it
            return
        for path in map(parts.lock_of, set(names) - claims(names)):  # each made under the lock
            with failing(path, "unlink"):
                os.unlink(path)
        for mark in marks:
            mark.release()


def _folders(parts: Parts) -> tuple[set[str], frozenset[str]]:
    """Those that are there, and those that some record needs."""
    there = set(parts.driver.list())
    with parts.database.reading() as db:
        return there, _column(db, _NEEDED)


def _from_the_top(layers: Set[str], parts: Parts) -> Iterator[str]:
    """Each before the one that it lies on, which would first have to make it whole otherwise."""
    from reflayer.driver.differences import lower as lower_of

    lower = {layer: lower_of(parts.layers, layer) for layer in layers}  # or it has just gone
    while lower:
        for layer in lower.keys() - lower.values():
            yield layer
            del lower[layer]


def with_room(parts: Parts, step: Callable[[], None]) -> None:
    """Do ``step``, and if that fails once more when all that was removed is deleted."""
    try:
        step()
    except (OperationError, StoreError):
        with suppress(OperationError):  # it tells of something else
            parts.driver.empty_trash()
        step()


def _refuse_without_folders(parts: Parts) -> None:
    """All folders are gone: no crash does that, and the records are not garbage."""
    there, needed = _folders(parts)
    if needed and not needed & there:
        raise StoreError(
            f"{parts.layers}: all containers and layers are gone: is a file system "
            f"not mounted? Or remove {parts.root} to begin anew"
        )


def _forget(parts: Parts) -> None:
    """Records of what no name or container needs, and of what is gone."""
    # A folder is not there if its removal was cut short, or if it was deleted from outside. A
    # record goes before its folder: on a full disk that may be deleted where it is, and half there
    # after a crash.
    there = set(parts.driver.list())
    with parts.database.writing() as db:
        for table in ("containers", "layers"):
            gone = _column(db, f"SELECT id FROM {table}") - there
            db.executemany(f"DELETE FROM {table} WHERE id = ?", [(one,) for one in gone])
        differences = _column(db, "SELECT id FROM layers WHERE parent NOTNULL")
        whole = [(one,) for one in differences if parts.driver.lower(one) is None]  # by now
        db.executemany("UPDATE layers SET parent = NULL WHERE id = ?", whole)
        db.execute(f"DELETE FROM layers WHERE id IN ({_BROKEN})")
        db.execute(f"DELETE FROM images WHERE NOT {USED}")
        db.execute(f"{_STACKS} DELETE FROM layers WHERE id NOT IN (SELECT id FROM needed)")


def _end_spares(parts: Parts) -> None:
    """Those of layers that are no image's own any more, but lie below one's, perhaps."""
    from reflayer.driver.spares import all_spares

    if found := all_spares(parts.layers):
        with parts.database.reading() as db:
            needed = _column(db, "SELECT layer FROM images")
        for spares in found:
            if spares.layer not in needed:
                parts.driver.keep_spares(spares.layer, 0)


def _remove_blobs(parts: Parts) -> None:
    from reflayer.images.content.partial_download import expire

    with parts.database.reading() as db:
        needed = _column(
            db, f"SELECT digest FROM blobs JOIN images ON images.id = blobs.image WHERE {USED}"
        )
    for digest in set(parts.content.digests()) - needed:
        parts.content.delete(digest)
    expire(parts.content.folder)


def _tag(parts: Parts) -> None:
    """Name the images in the content's index, for programs that read it in place, as skopeo."""
    # An image is tagged by its references; one that has none, by the digits of its id, as paths are
    # no tags (OCI image-spec, annotations.md: org.opencontainers.image.ref.name).
    from reflayer.images.model.document import Document

    wanted: dict[str, Descriptor] = {}
    with parts.database.reading() as db:
        rows = db.execute("SELECT id, manifest FROM images WHERE manifest NOTNULL").fetchall()
        for image, text in rows:
            names = _column(db, "SELECT name FROM names WHERE image = ?", image)
            references = {name for name in names if ":/" not in name and ":-" not in name}
            for tag in references or {image.partition(":")[2]}:
                wanted[tag] = Document.parse(text.encode(), image).descriptor()
    tagged = {tag: there.digest for tag, there in parts.content.tags().items()}
    if tagged != {tag: manifest.digest for tag, manifest in wanted.items()}:
        parts.content.set_tags(wanted)


def _is_empty(folder: str) -> bool:
    with failing(folder, "list"), suppress(FileNotFoundError):
        if os.stat(folder).st_nlink > 2:  # a folder in it, where they are counted (inode(7))
            return False
        with os.scandir(folder) as names:
            return next(names, None) is None
    return True


def _names_in(folder: str) -> list[str]:
    with failing(folder, "list"), suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


def _column(db: Connection, query: str, *values: str) -> frozenset[str]:
    return frozenset(row[0] for row in db.execute(query, values))
