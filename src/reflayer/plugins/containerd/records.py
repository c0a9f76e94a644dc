"""The SQLite database of the snapshots: what there is, by which name, in which folder.

A commit of an image's layer is on the disk when it returns. What else is recorded is safe from the
death of any process, but like the files of an active snapshot itself, a power cut may take the last
seconds of it: SQLite's ``synchronous = NORMAL`` for the write-ahead log.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reflayer.errors import StoreError
from reflayer.plugins.containerd.refusals import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
)
from reflayer.plugins.containerd.snapshot import Kind, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 1
"""What ``user_version`` says; a database with a higher one is another, newer reflayer's."""

_SCHEMA = """
CREATE TABLE snapshots (
    name TEXT PRIMARY KEY,
    parent TEXT NOT NULL,      -- a name, or empty
    kind INTEGER NOT NULL,     -- 1 view, 2 active, 3 committed
    folder TEXT NOT NULL,      -- the driver's id
    created INTEGER NOT NULL,  -- nanoseconds since 1970
    updated INTEGER NOT NULL,
    labels TEXT NOT NULL,      -- JSON
    size INTEGER NOT NULL,     -- bytes, of a committed one
    inodes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX snapshots_by_parent ON snapshots (parent);
"""
_COLUMNS = "name, parent, kind, folder, created, updated, labels, size, inodes"


class Records:
    """The database in one file, open as long as the service runs; no other process writes to it.

    Reading is for the thread that opened it, and never waits. Writing is for any thread.
    """

    def __init__(self, path: str) -> None:
        """Open the database, made where it is absent.

        Raises:
            StoreError: it cannot be opened, is none, or is of a newer schema.
        """
        self._path = path
        self._mutex = threading.Lock()
        with self._told():
            self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._make()
                self._reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            except BaseException:
                self._writer.close()
                raise

    def close(self) -> None:
        """Close it; all is in the one file then."""
        with self._mutex, self._told():
            self._reader.close()
            self._writer.close()

    def get(self, name: str) -> Snapshot:
        """The snapshot of this name.

        Raises:
            NotFoundError: there is none.
        """
        snapshot = self.find(name)
        if snapshot is None:
            raise NotFoundError(f"snapshot {name} does not exist")
        return snapshot

    def find(self, name: str) -> Snapshot | None:
        """The snapshot of this name, or None."""
        with self._told():
            return _find(self._reader, name)

    def all(self) -> Iterator[Snapshot]:
        """All snapshots as they are now, by name."""
        with self._told():
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM snapshots ORDER BY name"
            ).fetchall()
        return map(_snapshot, rows)

    def count(self) -> int:
        """How many there are; for any thread."""
        with self._mutex, self._told():
            count = self._writer.execute("SELECT count(*) FROM snapshots").fetchone()[0]
        assert isinstance(count, int)
        return count

    def add(self, snapshot: Snapshot) -> None:
        """Record a new one, whose folder is there.

        Raises:
            AlreadyExistsError: its name is taken.
            NotFoundError: its parent has been removed.
        """
        with self._writing(durable=False) as db:
            if snapshot.parent and _find(db, snapshot.parent) is None:
                raise NotFoundError(f"parent {snapshot.parent} does not exist")
            _insert(db, snapshot)

    def commit(self, key: str, snapshot: Snapshot) -> None:
        """Record ``snapshot`` in place of the active one that is called ``key``: on the disk.

        Raises:
            AlreadyExistsError: its name is taken.
        """
        with self._writing(durable=True) as db:
            _insert(db, snapshot)
            db.execute("DELETE FROM snapshots WHERE name = ?", (key,))

    def update(self, snapshot: Snapshot) -> None:
        """Record the labels of ``snapshot`` and the time of the change."""
        with self._writing(durable=False) as db:
            db.execute(
                "UPDATE snapshots SET labels = ?, updated = ? WHERE name = ?",
                (json.dumps(dict(snapshot.labels)), snapshot.updated, snapshot.name),
            )

    @contextmanager
    def removing(self, name: str) -> Iterator[None]:
        """The snapshot is gone at the end of the block, which removes its folder; or stays.

        Raises:
            FailedPreconditionError: it is the parent of another.
        """
        with self._writing(durable=False) as db:
            row = db.execute("SELECT name FROM snapshots WHERE parent = ? LIMIT 1", (name,))
            child = row.fetchone()
            if child is not None:
                raise FailedPreconditionError(
                    f"cannot remove snapshot {name}: {child[0]} is its child"
                )
            db.execute("DELETE FROM snapshots WHERE name = ?", (name,))
            yield

    def forget(self, names: list[str]) -> None:
        """Remove the records of what is not there any more, whether it has children or not."""
        with self._writing(durable=True) as db:
            db.executemany("DELETE FROM snapshots WHERE name = ?", [(name,) for name in names])

    def _make(self) -> None:
        db = self._writer
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path}: a newer reflayer made it (schema {version}, this one knows "
                f"{SCHEMA_VERSION}): use that one, or another --home"
            )
        db.execute("PRAGMA journal_mode = WAL")
        if version < SCHEMA_VERSION:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    @contextmanager
    def _writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._told():
            db = self._writer
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite has ended it where the disk is full
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever SQLite raises becomes one line with the file's name."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error


def _find(db: sqlite3.Connection, name: str) -> Snapshot | None:
    row = db.execute(f"SELECT {_COLUMNS} FROM snapshots WHERE name = ?", (name,)).fetchone()
    return None if row is None else _snapshot(row)


def _insert(db: sqlite3.Connection, snapshot: Snapshot) -> None:
    if _find(db, snapshot.name) is not None:
        raise AlreadyExistsError(f"snapshot {snapshot.name} exists already")
    db.execute(
        f"INSERT INTO snapshots ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            snapshot.name,
            snapshot.parent,
            int(snapshot.kind),
            snapshot.folder,
            snapshot.created,
            snapshot.updated,
            json.dumps(dict(snapshot.labels)),
            snapshot.size,
            snapshot.inodes,
        ),
    )


def _snapshot(row: tuple[str, str, int, str, int, int, str, int, int]) -> Snapshot:
    name, parent, kind, folder, created, updated, labels, size, inodes = row
    return Snapshot(
        name, parent, Kind(kind), folder, created, updated, json.loads(labels), size, inodes
    )
