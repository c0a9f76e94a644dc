"""The store's SQLite database: its schema, who reads it and who writes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from threading import get_ident

from reflayer.errors import OperationError, StoreError
from reflayer.store import sqlite
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


class Database:
    """The database in the file ``path``; any thread may use it.

    Each transaction opens it anew, unless a block has said that more will follow.
    """

    def __init__(self, path: str, lock: str, home: str) -> None:
        """Nothing is opened yet.

        Args:
            path: the database's file.
            lock: the lock file under which it is made.
            home: the folder of layers and containers: where some are, there was a database.
        """
        self._path = path
        self._lock = lock
        self._home = home
        self._kept: dict[int, sqlite3.Connection | None] = {}  # by thread

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let the transactions of this thread in the block, one after the other, open it once.

        Opening it is most of what a small transaction takes.
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
                with sqlite.telling(self._path):
                    kept.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading, at one moment's state; to an empty database if there is none.

        Raises:
            StoreError: it cannot be read, is none, is lost, or is of a newer schema.
        """
        with sqlite.telling(self._path):
            if _is_there(self._path):
                with self._connection() as db:
                    if sqlite.version_of(db) == SCHEMA_VERSION:
                        with sqlite.transaction(db, "DEFERRED"):
                            yield db
                        return
            self._refuse_lost()
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
                db.executescript(_SCHEMA)
                yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: durable when the block has ended, undone if it raises.

        Raises:
            StoreError: it cannot be written, is none, is lost, or is of a newer schema.
            OperationError: it cannot be made.
        """
        with sqlite.telling(self._path):
            if not _is_there(self._path):
                self._make()
            with self._connection() as db:
                if sqlite.version_of(db) != SCHEMA_VERSION:
                    self._make()
                with sqlite.transaction(db):
                    yield db

    def _make(self) -> None:
        with locked(self._lock):
            self._refuse_lost()
            sqlite.make(self._path, _SCHEMA, SCHEMA_VERSION)

    def _refuse_lost(self) -> None:
        """It is made before the first layer, so what is there without it is not all there was."""
        try:
            is_empty = not os.listdir(self._home)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(self._home), "list") from error
        if not is_empty:
            raise StoreError(
                f"{self._path}: there are containers or layers in {self._home}, but no database: "
                "put it back, or remove all to begin anew"
            )

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One that is in no transaction: this thread's, or a new one for the block."""
        thread = get_ident()
        kept = self._kept.get(thread)
        if kept is not None and not kept.in_transaction:
            yield kept
        elif kept is None and thread in self._kept:
            self._kept[thread] = kept = sqlite.connect(self._path, SCHEMA_VERSION)
            yield kept
        else:
            with closing(sqlite.connect(self._path, SCHEMA_VERSION)) as db:
                yield db


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "stat") from error
    return True
