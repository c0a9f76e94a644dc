"""The store's SQLite database: its schema, and transactions that end in one clear line."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from threading import get_ident

from reflayer.errors import OperationError, StoreError, printable
from reflayer.store.locks import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 1
"""What ``user_version`` says; a database with a higher one is another, newer reflayer's."""

_SCHEMA = """
CREATE TABLE layers (
    id TEXT PRIMARY KEY,      -- the folder's name in the driver's home
    size INTEGER NOT NULL,    -- bytes of what was unpacked
    skipped TEXT NOT NULL     -- how many things ownership="ignore" left out, by kind, as JSON
);
CREATE TABLE images (
    id TEXT PRIMARY KEY,      -- digest of the config; of a folder that was taken in: random
    manifest TEXT,            -- its descriptor as JSON; NULL: a folder that is not packed
    platform TEXT NOT NULL,
    created TEXT,             -- RFC 3339, as the config has it; of a folder: when it was taken in
    layer TEXT NOT NULL       -- the id of the layer of its top chain, whether it is there or not
);
CREATE TABLE names (
    name TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    stamp TEXT NOT NULL       -- what tells that its source is unchanged; empty: unknown
);
CREATE TABLE blobs (
    image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (image, digest)
);
CREATE TABLE containers (
    id TEXT PRIMARY KEY,      -- the folder's name in the driver's home, too
    name TEXT NOT NULL UNIQUE,
    image TEXT NOT NULL REFERENCES images (id),
    image_name TEXT NOT NULL, -- what it was asked for by, when the container was made
    created REAL NOT NULL     -- seconds since 1970
);
CREATE INDEX names_by_image ON names (image);
CREATE INDEX containers_by_image ON containers (image);
"""
_PATIENCE = 60.0  # seconds to wait for another process's transaction, all of which are short


class Database:
    """The database in the file ``path``; any thread may use it.

    Each transaction opens it anew, unless a block has said that more will follow.
    """

    def __init__(self, path: str, lock: str) -> None:
        """Nothing is opened yet.

        Args:
            path: the database's file.
            lock: the lock file under which it is made.
        """
        self._path = path
        self._lock = lock
        self._kept: dict[int, sqlite3.Connection | None] = {}  # by thread

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let the transactions of this thread in the block, one after the other, open it once.

        Whoever is the last to close it has to write all of the log back, and to remove that.
        """
        thread = get_ident()
        if thread in self._kept:
            yield
            return
        self._kept[thread] = None
        try:
            yield
        finally:
            kept = self._kept.pop(thread)
            if kept is not None:
                with self._told():
                    kept.close()

    def is_made(self) -> bool:
        """Whether it has been made, so that something may be on record.

        Raises:
            StoreError: it cannot be read, is none, or is of a newer schema.
        """
        with self._told():
            if not _is_there(self._path):
                return False
            with self._connection() as db:
                return _version(db) == SCHEMA_VERSION

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading, at one moment's state; to an empty database if there is none.

        Raises:
            StoreError: it cannot be read, is none, or is of a newer schema.
        """
        with self._told():
            if _is_there(self._path):
                with self._connection() as db:
                    if _version(db) == SCHEMA_VERSION:
                        db.execute("BEGIN")
                        try:
                            yield db
                        finally:
                            _end(db)
                        return
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
                db.executescript(_SCHEMA)
                yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: durable when the block has ended, undone if it raises.

        Raises:
            StoreError: it cannot be written, is none, or is of a newer schema.
        """
        with self._told(), self._connection() as db:
            if _version(db) != SCHEMA_VERSION:
                self._make()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                _end(db)  # a kept connection must not go on holding the lock
                raise

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One that is in no transaction: this thread's, or a new one for the block."""
        thread = get_ident()
        kept = self._kept.get(thread)
        if kept is not None and not kept.in_transaction:
            yield kept
        elif kept is None and thread in self._kept:
            self._kept[thread] = kept = self._connect()
            yield kept
        else:
            with closing(self._connect()) as db:
                yield db

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._connect_in("NORMAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_IOERR_SHM"):
                raise
            # A full disk has no room for the index that processes share. Alone one needs none, and
            # whoever wants to make room must be able to look what there is.
            return self._connect_in("EXCLUSIVE")

    def _connect_in(self, locking_mode: str) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)
        try:
            db.execute(f"PRAGMA locking_mode = {locking_mode}")
            db.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
            db.execute("PRAGMA foreign_keys = ON")
            version = _version(db)
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self._path}: a newer reflayer made this store (schema {version}, this one "
                    f"knows {SCHEMA_VERSION}): use that one, or another --root"
                )
        except BaseException:
            db.close()
            raise
        return db

    def _make(self) -> None:
        # Alone: SQLite does not wait for others while it changes to the write-ahead log.
        with locked(self._lock), closing(self._connect()) as db:
            if _version(db) == SCHEMA_VERSION:
                return
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever SQLite raises becomes one line with the file's name.

        So does what it cannot even be asked for: its texts are UTF-8, and a path can be any bytes.
        """
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            hint = next((text for start, text in _HINTS.items() if name.startswith(start)), "")
            raise StoreError(f"{self._path}: {error}{hint}") from error
        except UnicodeEncodeError as error:
            reason = "it is not UTF-8, as every name in a store has to be"
            raise StoreError(f"{printable(error.object)}: {reason}") from error


_HINTS = {
    "SQLITE_BUSY": ": another process has kept it locked for a minute; try again",
    "SQLITE_CORRUPT": ": restore it, or remove the store and begin anew",
    "SQLITE_NOTADB": ": put back what it was, or use another --root",
    "SQLITE_FULL": ": free some space and try again",
    "SQLITE_CANTOPEN": ": it has to be in a place that this user can write and that has room for "
    "another file, even to be read",
    "SQLITE_READONLY": ": it has to be in a place that this user can write",
}


def _end(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # SQLite has ended it itself where the disk is full
        db.execute("ROLLBACK")


def _version(db: sqlite3.Connection) -> int:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    assert isinstance(version, int)
    return version


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "stat") from error
    return True
