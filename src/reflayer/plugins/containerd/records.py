"""The SQLite database of the snapshots: what there is, by which name, in which folder.

A commit of an image's layer is on the disk when it returns. What else is recorded is safe from the
death of any process, but like the files of an active snapshot itself, a power cut may take the last
seconds of it: SQLite's ``synchronous = NORMAL`` for the write-ahead log. On a full disk that log
cannot grow, but it begins anew once all of it is in the database.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from enum import IntEnum

from reflayer.errors import LayerError
from reflayer.record import as_dict, record
from reflayer.store import database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
_COLUMNS = "name, parent, kind, folder, created, updated, labels, size, inodes"  # as in Snapshot


class Kind(IntEnum):
    """What a snapshot is, by the numbers of the protocol."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@record
class Snapshot:
    """One snapshot.

    Attributes:
        name: its name, of a committed one, or its key; the client's namespace is part of it.
        parent: the name of the committed one that it was made from, or empty.
        folder: the id of its layer in the driver; of a view of a parent, the parent's.
        created, updated: nanoseconds since 1970, when it was made or committed, and its labels
            last changed.
        labels: by name; none is empty.
        size, inodes: what it takes itself on disk, counted when it was committed; bytes.
    """

    name: str
    parent: str
    kind: Kind
    folder: str
    created: int
    updated: int
    labels: Mapping[str, str]
    size: int = 0
    inodes: int = 0

    @property
    def has_own_folder(self) -> bool:
        """Whether its folder is its own: a view of a parent shows that of its parent."""
        return self.kind is not Kind.VIEW or not self.parent


class SnapshotError(LayerError):
    """A request that cannot be granted as things are, by a word of containerd's ``errdefs``."""


class NotFoundError(SnapshotError):
    """There is no such snapshot."""


class AlreadyExistsError(SnapshotError):
    """A snapshot is called so already."""


class FailedPreconditionError(SnapshotError):
    """The snapshot is not of the kind for this, or others need it."""


class InvalidArgumentError(SnapshotError):
    """The request makes no sense, whatever there is."""


class Records:
    """The database in one file, open as long as the service runs; no other process opens it.

    Reading never waits, since all there is, is in memory, too. Both are for any thread.
    """

    def __init__(self, path: str) -> None:
        """Open the database, made where it is absent."""
        self._path = path
        self._mutex = threading.Lock()
        with database.telling(path):
            if not os.path.exists(path) or not os.path.getsize(path):
                database.make(path, _SCHEMA, SCHEMA_VERSION, alone=True)
            self._db = database.connect(path, alone=True)
            try:
                database.known_version(self._db, path, SCHEMA_VERSION)
                rows = self._db.execute(f"SELECT {_COLUMNS} FROM snapshots")
                self._snapshots = {row[0]: _snapshot(row) for row in rows}
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close it; all is in the one file then."""
        with self._mutex, database.telling(self._path):
            self._db.close()

    def get(self, name: str) -> Snapshot:
        """The snapshot of this name, or ``NotFoundError``."""
        snapshot = self.find(name)
        if snapshot is None:
            raise NotFoundError(f"snapshot {name} does not exist")
        return snapshot

    def find(self, name: str) -> Snapshot | None:
        return self._snapshots.get(name)

    def all(self) -> Iterator[Snapshot]:
        """All snapshots as they are now, by name."""
        return iter(sorted(self._snapshots.values(), key=lambda snapshot: snapshot.name))

    def count(self) -> int:
        return len(self._snapshots)

    def add(self, snapshot: Snapshot) -> None:
        """Record a new one, whose folder is there."""

        self._write(lambda db: self._insert(db, snapshot), {snapshot.name: snapshot})

    def commit(self, key: str, snapshot: Snapshot) -> None:
        """Record ``snapshot`` in place of the active one that is called ``key``: on the disk."""

        def change(db: sqlite3.Connection) -> None:
            self._insert(db, snapshot)
            _delete(db, key)

        self._write(change, {key: None, snapshot.name: snapshot}, durable=True)

    def update(self, snapshot: Snapshot) -> None:
        """Record the labels of ``snapshot`` and the time of the change."""
        statement = "UPDATE snapshots SET labels = ?, updated = ? WHERE name = ?"
        values = (_labels(snapshot), snapshot.updated, snapshot.name)
        self._write(lambda db: db.execute(statement, values), {snapshot.name: snapshot})

    def remove(self, name: str, remove_folder: Callable[[], None]) -> None:
        """Remove a snapshot without children: its folder, then, if that can be, its record."""

        def change(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT name FROM snapshots WHERE parent = ? LIMIT 1", (name,))
            if child := row.fetchone():
                text = f"cannot remove snapshot {name}: {child[0]} is its child"
                raise FailedPreconditionError(text)
            _delete(db, name)
            remove_folder()

        self._write(change, {name: None})

    def forget(self, names: list[str]) -> None:
        """Remove the records of what is not there any more, whether it has children or not."""
        self._write(lambda db: _delete(db, *names), dict.fromkeys(names), durable=True)

    def _write(
        self,
        change: Callable[[sqlite3.Connection], object],
        changed: dict[str, Snapshot | None],
        *,
        durable: bool = False,
    ) -> None:
        """Make a change, after which what is ``changed`` is so; one that cannot be is undone."""
        with self._mutex, database.telling(self._path):
            db = self._db
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            try:
                with database.transaction(db):
                    change(db)
            except sqlite3.OperationalError:  # the disk is full, perhaps
                db.execute("PRAGMA wal_checkpoint(RESTART)")
                with database.transaction(db):
                    change(db)
            for name, snapshot in changed.items():
                if snapshot is None:
                    self._snapshots.pop(name, None)
                else:
                    self._snapshots[name] = snapshot

    def _insert(self, db: sqlite3.Connection, snapshot: Snapshot) -> None:
        if snapshot.name in self._snapshots:
            raise AlreadyExistsError(f"snapshot {snapshot.name} exists already")
        if snapshot.parent and snapshot.parent not in self._snapshots:
            raise NotFoundError(f"parent {snapshot.parent} does not exist")
        row = as_dict(snapshot) | {"kind": int(snapshot.kind), "labels": _labels(snapshot)}
        statement = f"INSERT INTO snapshots ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        db.execute(statement, tuple(row.values()))


def _delete(db: sqlite3.Connection, *names: str) -> None:
    db.executemany("DELETE FROM snapshots WHERE name = ?", [(name,) for name in names])


def _labels(snapshot: Snapshot) -> str:
    return json.dumps(dict(snapshot.labels))


def _snapshot(row: tuple[str, str, int, str, int, int, str, int, int]) -> Snapshot:
    name, parent, kind, folder, created, updated, labels, size, inodes = row
    return Snapshot(
        name, parent, Kind(kind), folder, created, updated, json.loads(labels), size, inodes
    )
