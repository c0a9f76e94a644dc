"""SQLite databases: opened with a version, on a full disk too; what fails is one clear line.

Several processes share one that has a rollback journal, a file that stays, with room in it. So
reading makes no file, which a full disk and one that is read-only have no place for; and forgetting
what was removed overwrites blocks that are there. (A write-ahead log needs two files to be read at
all, and maps one of them: where the disk is full, its pages are a SIGBUS.) One process that has a
database to itself has a write-ahead log all the same, since that commits without waiting for the
disk; its index is on the heap.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager, suppress

from reflayer.errors import OperationError, StoreError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 60.0  # seconds to wait for another process's transaction, all of which are short
_JOURNAL = 1 << 19  # bytes: for some thirty pages of 4096 at a removal
_LOG = 1 << 21  # bytes: for many transactions, before a disk has to be waited for
_NEW = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def connect(path: str, version: int, *, alone: bool = False) -> sqlite3.Connection:
    """Open the database ``path``.

    Args:
        path: its file.
        version: the highest ``user_version`` that is known.
        alone: no other process or connection opens it, and any thread may use this one, in turn.

    Raises:
        sqlite3.Error: it cannot be opened, or is none.
        StoreError: it is of a newer schema.
    """
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=not alone)
    try:
        if alone:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute(f"PRAGMA journal_mode = {'WAL' if alone else 'PERSIST'}")
        if alone:
            db.execute(f"PRAGMA wal_autocheckpoint = {_LOG // 4096 // 2}")  # half is always free
            with suppress(OperationError):  # on a full disk it grows as long as it can
                make_room(f"{path}-wal", _LOG)
        db.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        db.execute("PRAGMA foreign_keys = ON")
        found = version_of(db)
        if found > version:
            raise StoreError(
                f"{path}: a newer reflayer made it (schema {found}, this one knows {version}): use "
                "that one, or another folder"
            )
    except BaseException:
        db.close()
        raise
    return db


def make(path: str, schema: str, version: int, *, alone: bool = False) -> None:
    """Make the database ``path`` where it is absent or empty; nobody else may be making it.

    What is used ``alone`` gets its log when it is opened.

    Raises:
        sqlite3.Error: it cannot be made.
        StoreError: it is of a newer schema.
        OperationError: there is no room for its journal.
    """
    with suppress(FileExistsError):
        os.close(_open(path, _NEW | os.O_EXCL))
    with closing(connect(path, version)) as db:
        if version_of(db) == version:
            return
        db.execute("PRAGMA journal_mode = DELETE")  # the one that stays is made below
        db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;")
    if not alone:
        make_room(f"{path}-journal", _JOURNAL)


def make_room(log: str, size: int) -> None:
    """Set aside ``size`` bytes for the journal or write-ahead log ``log``; zeros are an empty one.

    Raises:
        OperationError: there is none.
    """
    fd = _open(log, _NEW)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(log), "fallocate") from error
    finally:
        os.close(fd)


def version_of(db: sqlite3.Connection) -> int:
    """The version of its schema; 0 where it has none yet."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    assert isinstance(version, int)
    return version


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """What the block does is committed at its end, or undone if it raises.

    Raises:
        sqlite3.Error: it cannot be committed.
    """
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has ended it itself where the disk is full
            db.execute("ROLLBACK")
        raise


@contextmanager
def telling(path: str) -> Iterator[None]:
    """Whatever SQLite raises in the block becomes one line with the file's name.

    So does what it cannot even be asked for: its texts are UTF-8, and a path can be any bytes.

    Raises:
        StoreError: instead.
    """
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        hint = next((text for start, text in _HINTS.items() if name.startswith(start)), "")
        raise StoreError(f"{path}: {error}{hint}") from error
    except UnicodeEncodeError as error:
        reason = "it is not UTF-8, as every name in a store has to be"
        raise StoreError(f"{printable(error.object)}: {reason}") from error


_HINTS = {
    "SQLITE_BUSY": ": another process has kept it locked for a minute; try again",
    "SQLITE_CORRUPT": ": restore it, or remove the store and begin anew",
    "SQLITE_NOTADB": ": put back what it was, or use another --root",
    "SQLITE_FULL": ": free some space and try again",
    "SQLITE_CANTOPEN": ": this user may not open it, or the disk has no room for another file",
    "SQLITE_READONLY": ": it has to be in a place that this user can write",
}


def _open(path: str, flags: int) -> int:
    """Open a file that on btrfs is overwritten in place: each new copy of a block takes a block."""
    from reflayer.linux.btrfs import forbid_copies

    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "open") from error
    with suppress(OSError):  # not btrfs, or not empty
        forbid_copies(fd)
    return fd
