"""SQLite databases, and the store's own: its schema, reading and writing.

Several processes share one that has a rollback journal, a file that stays, with room in it. So
reading makes no file, which a full disk and one that is read-only have no place for; and forgetting
what was removed overwrites blocks that are there. (A write-ahead log needs two files to be read at
all, and maps one of them: where the disk is full, its pages are a SIGBUS.) One process that has a
database to itself has a write-ahead log all the same, since that commits without waiting for the
disk; its index is on the heap.
"""

from __future__ import annotations

import errno
import os
from _thread import get_ident

from reflayer.contexts import closing, contextmanager, suppress
from reflayer.errors import OperationError, StoreError, failing, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
else:
    try:
        import _sqlite3 as sqlite3  # what is around it is for dates, and imports datetime
    except ImportError:
        import sqlite3

_WAYS_ON = {
    errno.EROFS: "",
    errno.EACCES: "become who may, by sudo say, or ",
    errno.EPERM: "become who may, by sudo say, or ",
}
_ELSEWHERE = "name another folder for the store by --root or REFLAYER_ROOT"


def with_way_on(reason: str, number: int | None) -> str:
    """A reason, and what to do if it is that somebody may not have a store where it would be."""
    return f"{reason}: {_WAYS_ON[number]}{_ELSEWHERE}" if number in _WAYS_ON else reason


SCHEMA_VERSION = 4
"""What ``user_version`` says; a database with a higher one is another, newer reflayer's."""

_CHECKPOINTS = """
CREATE TABLE IF NOT EXISTS checkpoints (
    container TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    layer TEXT NOT NULL,      -- the id of its layer
    parent TEXT,              -- the name of the one that it goes on from
    created REAL NOT NULL,    -- seconds since 1970
    size INTEGER NOT NULL,    -- bytes of what changed since that
    PRIMARY KEY (container, name)
);
CREATE TABLE IF NOT EXISTS standing (
    container TEXT PRIMARY KEY REFERENCES containers (id) ON DELETE CASCADE,
    layer TEXT NOT NULL,      -- which it was last the same as, if not its image's
    checkpoint TEXT,          -- the name of that
    is_unfinished INTEGER NOT NULL -- whether a rollback to that is to be finished
);
"""
_SCHEMA = f"""
CREATE TABLE layers (
    id TEXT PRIMARY KEY,      -- the folder's name in the driver's home
    size INTEGER NOT NULL,    -- bytes of what was unpacked
    skipped TEXT NOT NULL,    -- how many things could not be made, by kind, as JSON
    parent TEXT               -- the layer that a difference lies on; NULL: it is whole
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
{_CHECKPOINTS}"""
# Version 1 had whole layers alone. Who may only read has it so until somebody writes. Up to version
# 2 each command compared all folders with all records, and left no mark of what it did. Up to
# version 3 there were no checkpoints.
_UPGRADE = "ALTER TABLE layers ADD COLUMN parent TEXT"
_AS_UPGRADED = {"layers": "SELECT *, NULL AS parent FROM main.layers"}
_AS_WITHOUT_CHECKPOINTS = {
    "checkpoints": "SELECT '' container, '' name, '' layer, '' parent, 0 created, 0 size LIMIT 0",
    "standing": "SELECT '' container, '' layer, '' checkpoint, 0 is_unfinished LIMIT 0",
}

HEX = frozenset("0123456789abcdef")
_PATIENCE = 60.0  # seconds to wait for another process's transaction, all of which are short
_JOURNAL = 1 << 19  # bytes: for some thirty pages of 4096 at a removal
_LOG = 1 << 21  # bytes: for many transactions, before a disk has to be waited for
_NEW = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class _Open:
    """A connection that a thread keeps, and the file that it is of."""

    __slots__ = ("db", "file", "is_current")

    def __init__(self, db: sqlite3.Connection, file: os.stat_result) -> None:
        self.db = db
        self.file = file
        self.is_current = False  # whether its schema is the newest


class Database:
    """The database in the file ``path``; any thread may use it.

    Each thread keeps it open from one transaction to the next, since to open it is most of what a
    small one takes. No lock is held between them. What was forked opens it anew, and so does who
    finds another file there, or has met an error.
    """

    def __init__(self, path: str, lock: str, home: str) -> None:
        self._path = path
        self._lock = lock  # under which it is made
        self._home = home  # of layers and containers: where some are, there was a database
        self._open: dict[int, _Open] = {}  # by thread
        self._pid = os.getpid()

    def __del__(self) -> None:
        if self._pid == os.getpid():
            for thread in list(self._open):
                self._close(thread)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading, at one moment's state; an empty database if there is none."""
        with telling(self._path):
            if (file := _status(self._path)) is not None:
                with self._connection(file) as kept, transaction(kept.db, "DEFERRED"):
                    if version := self._version_of(kept):
                        with _upgraded(kept.db, version):
                            yield kept.db
                        return
            self._refuse_lost()
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
                db.executescript(_SCHEMA)
                yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: durable when the block has ended, undone if it raises."""
        with telling(self._path), self._made() as db, transaction(db):
            yield db

    def make(self) -> None:
        """Make it where it is absent, before the first layer."""
        with telling(self._path), self._made():
            pass

    @contextmanager
    def _made(self) -> Iterator[sqlite3.Connection]:
        file = _status(self._path)
        if file is None:
            self._make()
            file = os.stat(self._path)
        with self._connection(file) as kept:
            if not kept.is_current:
                version = self._version_of(kept)
                if not version:
                    self._make()
                elif version < SCHEMA_VERSION:
                    from reflayer.workers.lock import locked

                    # The lock file stays until a whole collection: of what an older version left.
                    with locked(self._lock):
                        _upgrade(kept.db)
            yield kept.db

    def _version_of(self, kept: _Open) -> int:
        """As ``known_version``; noted, since it only grows."""
        version = known_version(kept.db, self._path, SCHEMA_VERSION)
        kept.is_current = version == SCHEMA_VERSION
        return version

    def _make(self) -> None:
        from reflayer.workers.lock import locked

        with locked(self._lock):
            self._refuse_lost()
            make(self._path, _SCHEMA, SCHEMA_VERSION)

    def _refuse_lost(self) -> None:
        """It is made before the first layer, so what is there without it is not all there was."""
        with failing(self._home, "list"), suppress(FileNotFoundError):
            if not os.listdir(self._home):
                return
            raise StoreError(
                f"{self._path}: there are containers or layers in {self._home}, but no database: "
                "put it back, or remove all to begin anew"
            )

    @contextmanager
    def _connection(self, file: os.stat_result) -> Iterator[_Open]:
        """One of ``file`` that is in no transaction: this thread's, or a new one for the block."""
        if self._pid != os.getpid():
            _of_parents.append(self._open)
            self._open, self._pid = {}, os.getpid()
        thread = get_ident()
        kept = self._open.get(thread)
        if kept is not None and kept.db.in_transaction:
            with closing(connect(self._path)) as db:
                yield _Open(db, file)
            return
        if kept is not None and not os.path.samestat(kept.file, file):
            self._close(thread)
            kept = None
        if kept is None:
            kept = self._open[thread] = _Open(connect(self._path), file)
        try:
            yield kept
        except sqlite3.Error:
            self._close(thread)
            raise

    def _close(self, thread: int) -> None:
        with suppress(sqlite3.Error):
            self._open.pop(thread).db.close()


_of_parents: list[dict[int, _Open]] = []
"""What was open at a fork stays so: closed here, it would undo what the parent is at."""


def connect(path: str, *, alone: bool = False) -> sqlite3.Connection:
    """Open the database ``path``.

    Where it is used ``alone``, no other connection opens it. Any thread may use it, in turn.
    """
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
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
    except BaseException:
        db.close()
        raise
    return db


def known_version(db: sqlite3.Connection, path: str, most: int) -> int:
    """As ``version_of``; StoreError: it is more than ``most``."""
    found = version_of(db)
    if found > most:
        raise StoreError(
            f"{path}: a newer reflayer made it (schema {found}, this one knows {most}): use "
            "that one, or another folder"
        )
    return found


def _upgrade(db: sqlite3.Connection) -> None:
    with transaction(db):
        if (version := version_of(db)) < SCHEMA_VERSION:  # still: another may have done it
            if version == 1:
                db.execute(_UPGRADE)
            for statement in filter(str.strip, _CHECKPOINTS.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def _upgraded(db: sqlite3.Connection, version: int) -> Iterator[None]:
    """Let a database of an older version be read in the block as if it were upgraded."""
    if version == SCHEMA_VERSION:
        yield
        return
    db.execute("PRAGMA temp_store = MEMORY")
    views = _AS_WITHOUT_CHECKPOINTS | (_AS_UPGRADED if version == 1 else {})
    for name, query in views.items():
        db.execute(f"CREATE TEMP VIEW {name} AS {query}")
    yield  # if it raises, the transaction is undone, and the views with it
    for name in views:
        db.execute(f"DROP VIEW temp.{name}")


def make(path: str, schema: str, version: int, *, alone: bool = False) -> None:
    """Make the database ``path`` where it is absent or empty; under a lock."""
    with suppress(FileExistsError):
        os.close(_open(path, _NEW | os.O_EXCL))
    with closing(connect(path)) as db:
        if known_version(db, path, version) == version:
            return
        db.execute("PRAGMA journal_mode = DELETE")  # the one that stays is made below
        db.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;")
    if not alone:  # then its log is made when it is opened
        make_room(f"{path}-journal", _JOURNAL)


def make_room(log: str, size: int) -> None:
    """Set aside ``size`` bytes for a journal or write-ahead log; zeros are an empty one."""
    fd = _open(log, _NEW)
    try:
        with failing(log, "fallocate"):
            os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def version_of(db: sqlite3.Connection) -> int:
    """The version of its schema; 0 where it has none yet."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """What the block does is committed at its end, or undone if it raises."""
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
    from reflayer.linux.inode_flags import NOCOW, change_flags

    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise OperationError.from_os_error(error, path, "open") from error
    with suppress(OSError):  # not btrfs, or not empty
        change_flags(fd, add=NOCOW, remove=0)
    return fd


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        reason = with_way_on(error.strerror or "", error.errno)
        raise OperationError(path, "stat", reason, error.errno) from error
    except OSError as error:
        raise OperationError.from_os_error(error, path, "stat") from error


def ids_with(db: sqlite3.Connection, table: str, start: str) -> list[str]:
    """The ids in ``table`` that begin so; none where ``start`` has no digit, or others."""
    digits = start.removeprefix("sha256:")
    if not digits or not HEX.issuperset(digits):
        return []
    rows = db.execute(f"SELECT id FROM {table} WHERE id >= ? AND id < ?", (start, f"{start}g"))
    return [row[0] for row in rows]
