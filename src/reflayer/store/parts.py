"""What all that works on a store shares: where each of its parts lies, and how it is opened.

In ``Store`` itself it would tie every file of this room into a circle.
"""

from __future__ import annotations

import errno
import os

from reflayer import xdg
from reflayer.contexts import cached_property, suppress
from reflayer.errors import OperationError, ReflayerError, StoreError, failing, printable
from reflayer.linux.user_namespace import ALL_IDS, is_of_user, may_all
from reflayer.store.database import Database, with_way_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from sqlite3 import Connection
    from typing import Any, ParamSpec, TypeVar

    from reflayer.archive import IdMap
    from reflayer.driver import Driver
    from reflayer.images.content.blob_store import BlobStore

    P = ParamSpec("P")
    R = TypeVar("R")


def default_root() -> str:
    """``REFLAYER_ROOT``, else ``/var/lib/reflayer`` for root and ``$XDG_DATA_HOME/reflayer``.

    Raises:
        StoreError: this user has no home for it.
    """
    if said := os.environ.get("REFLAYER_ROOT"):
        return xdg.expanded(said)
    if os.geteuid() == 0 and not is_of_user():
        return "/var/lib/reflayer"
    data = xdg.folder("XDG_DATA_HOME", ".local/share")
    if data is None:
        raise StoreError(
            f"user {os.geteuid()} has no home for a store: "
            "name its folder by --root or REFLAYER_ROOT, or set HOME"
        )
    return os.path.join(data, "reflayer")


class Parts:
    """The parts of one store; each is opened when it is first wanted."""

    def __init__(
        self,
        root: str,
        method: str,
        ownership: str | None,
        workers: int | None,
        words: Callable[[], Any],
    ) -> None:
        """``words`` returns what does what a container can do itself: ``store.checkpoints``."""
        self.words = words
        self.root = root
        self.lock = os.path.join(root, "lock")  # of the whole store
        self.locks = os.path.join(root, "locks")  # of single chains and folders
        self.layers = os.path.join(root, "layers")  # the driver's home
        self.home = os.path.join(self.layers, "dir")  # containers and whole layers, by id
        self.database = Database(
            os.path.join(root, "reflayer.db"), self.lock_of("database"), self.home
        )
        self._said = ownership
        self._is_checked = False
        self._method = method
        self._workers = workers

    def make_folders(self) -> None:
        """Make the store's folder where it is absent, for its owner alone."""
        from reflayer.linux.mkdir import make_folders

        for folder in () if os.path.isdir(self.locks) else (self.root, self.locks):
            try:
                make_folders(folder, 0o700)
            except OSError as error:
                where = os.fsencode(error.filename or folder)
                reason = with_way_on(error.strerror or str(error), error.errno)
                raise OperationError(where, "mkdir", reason, error.errno) from error
        self.refuse_unwritable()
        self.check_ids()

    def refuse_unwritable(self) -> None:
        """Refuse who may not change the store, before some file of it is named to him."""
        if os.path.isdir(self.locks) and not os.access(self.locks, os.W_OK):
            number, reason = errno.EACCES, "this user may not write there"
            if os.statvfs(self.locks).f_flag & os.ST_RDONLY:
                number, reason = errno.EROFS, os.strerror(errno.EROFS)
            raise OperationError(self.root, "open", with_way_on(reason, number), number)

    def __reduce__(self) -> tuple[object, ...]:
        return Parts, (self.root, self._method, self._said, self._workers, self.words)

    @cached_property
    def is_outside(self) -> bool:
        """Whether what is asked for is done in the user's namespace, and this process is not."""
        if os.geteuid() == 0:
            return False
        from reflayer.workers.in_namespace import is_outside

        return is_outside()

    def do(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Call a function where that is done."""
        if not self.is_outside:
            return function(*arguments, **named)
        from reflayer.workers.in_namespace import ask

        return ask(function, *arguments, **named)

    def say(self, word: str, *arguments: object) -> Any:
        """Do what a container can do itself, by its word."""
        return self.do(getattr(self.words(), word), self, *arguments)

    def lock_of(self, name: str) -> str:
        """The lock file of one thing that only one may make at a time."""
        return os.path.join(self.locks, name)

    def go_on(self) -> None:
        """Let what was removed and is still there be deleted, as opening the driver does."""
        with suppress(OSError, ReflayerError):  # of no use to a list of what there is
            if os.listdir(os.path.join(self.layers, "trash")):
                _ = self.driver

    def folder(self, id: str) -> str:
        """What a layer or container itself has, whether it is there or not; nothing is made."""
        from reflayer.driver.differences import is_difference, upper_path

        if is_difference(self.layers, id):
            return upper_path(self.layers, id)
        return os.path.join(self.home, id)

    @cached_property
    def driver(self) -> Driver:
        """The folders of layers and containers; made where it is absent."""
        from reflayer.driver import Driver

        self.check_ids()
        return Driver(
            self.layers,
            method=self._method,
            ownership=self.ownership,
            workers=self._workers,
        )

    def check_ids(self) -> None:
        """Refuse a process that is not in the user namespace in which the trees were made.

        To it their owners are others, and some are nobody. One that has more ids will do.
        """
        mark = os.path.join(self.root, "ids")
        if self._is_checked:
            return
        with failing(mark, "readlink"):
            try:
                ids = os.readlink(mark)
            except FileNotFoundError:
                ids = ""
        if ids or is_of_user():
            from reflayer.linux.user_namespace import covers, id_maps, why_none

            ours = "; ".join(id_maps())
            if not ids:
                if not os.path.isdir(self.root):
                    return
                with failing(mark, "symlink"), suppress(FileExistsError):
                    os.symlink(ours, mark)
            elif ids != ours and not (is_of_user() and covers(ours, ids)):
                why = os.geteuid() and why_none()
                if not why:
                    user = f"user {ids.split()[1]}" if ids.split()[1:] else "its user"
                    why = f"{user}'s commands are, and programs started by reflayer unshare"
                raise StoreError(
                    f"{printable(self.root)}: its files belong to the ids {printable(ids)} of a "
                    f"user namespace, which this process is not in: {why}"
                )
            elif ids != ours:
                new = f"{mark}.{os.urandom(8).hex()}"
                with failing(mark, "symlink"):
                    os.symlink(ours, new)
                    os.replace(new, mark)
        self._is_checked = True

    @cached_property
    def content(self) -> BlobStore:
        """The blobs, an OCI image layout; made where it is absent."""
        from reflayer.images.content.blob_store import BlobStore

        return BlobStore(os.path.join(self.root, "content"))

    @cached_property
    def ownership(self) -> str:
        """As it was said, else as the last image or container was made; at first the best."""
        if self._said is None:
            with self.database.reading() as db:
                return _remembered(db) or _best()
        return self._said

    def remember_ownership(self, db: Connection) -> None:
        """Record the ownership, in the transaction that records what was made with it."""
        before = _remembered(db)
        if before is None and self._said is None:
            return
        if self.ownership != (before or _best()):
            db.execute("CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT)")
            db.execute("INSERT OR REPLACE INTO settings VALUES ('ownership', ?)", (self.ownership,))

    def ids_in_layers(self) -> IdMap | None:
        """What the ids on disk are in a layer that is packed; None where they are the same."""
        # Where owners are not kept, all that an image's root owned is the user's, and is root's
        # again when it is packed: otherwise each commit would give the folders above a change to a
        # user whom the image does not know.
        user, group = os.geteuid(), os.getegid()
        if self.ownership == "keep" or user == 0:
            return None
        from reflayer.archive import IdMap, IdRange

        same = IdRange(0, 0, ALL_IDS)
        return IdMap(uids=(IdRange(0, user, 1), same), gids=(IdRange(0, group, 1), same))


def _remembered(db: Connection) -> str | None:
    # The table came after the first release of the schema, which had no need of another version.
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'settings'").fetchone():
        row = db.execute("SELECT value FROM settings WHERE name = 'ownership'").fetchone()
        if row is not None:
            return str(row[0])
    return None


def _best() -> str:
    return "keep" if may_all() else "record"
