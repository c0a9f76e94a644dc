"""What was touched in a clone since it was made: found by threads, many folders with a call into C.

Whatever changes an inode sets its ctime to the clock, so one with an earlier ctime than the clone's
end is as it was cloned, if its folder is the one that it was cloned into. That is so where the
folder's own ctime is early, too: a rename sets it. And it is so where the folder above has an early
ctime, since the names in that are as they were. Where both are late, the folder may be another one
that was moved here, with all that was cloned elsewhere, unless the inode that the clone had there
is known.

So nothing is compared, and what it is a clone of is not read.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from contextlib import suppress
from functools import partial

from reflayer.errors import OperationError
from reflayer.linux.names import native
from reflayer.walk.folders import LONGEST_PATH, OPEN_FILE, names_in, open_beneath, open_noatime
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from typing import Any

    from reflayer.walk.stack import Union

CHANGED_NAMES: Any = getattr(native, "changed_names", None)
"""The part in C that looks at the names of folders; None where it is absent."""
UNKNOWN = 0
"""The type of a name that was not told (getdents64(2): d_type)."""
_LINKED = 253
"""As type of a name: it is as before, and its inode has several."""
_HELD = 252
"""As type of an only name: it is as before, and somebody has the file open."""
_AT_ONCE = 24  # folders that a call is for: between two calls work is shared
_STEPS = 12  # folders that a path leads through before the one it leads to is kept open
_DEEPEST = 256  # levels down to which that is done, since each takes a descriptor

Touched = dict[bytes, set[bytes]]
"""By the path of a folder that was looked at, the names in it that the walk has to look at."""

_Told = tuple[int, int, list[bytes], list[tuple[int, bytes]]]
"""Inode and ctime of a folder, the folders in it, and names of what else was touched."""


def touched_names(new: int, old: Union, since: int, until: int) -> Touched | None:
    """What was touched in a clone, or in its source, since the one was made of the other.

    Each folder has an entry that was touched in the clone, or something in it, on any level; but
    not one that may be another than the one cloned there, that could not be read, or that was
    touched in the source: the walk is to find out about these. None where the clone's root could
    not be read.

    Args:
        new: the clone's root.
        old: the source's, which is not supposed to change, and yet may have.
        since: when the cloning began, in nanoseconds.
        until: when it was complete.
    """

    times = (until, *(since for _ in old.parts))
    scan, *before = scans = [Scan(b"", time, lambda _path, _inode: False, None) for time in times]
    look([*zip(scans, (new, *(part.fd for part in old.parts)), strict=True)], None)
    if b"" in scan.failed:
        return None
    touched = {path: set(names) for path, names in scan.stale.items()}
    for path in scan.touched:
        touched.setdefault(path, set())
    doubtful = {*scan.others, *scan.failed}
    for below in before:
        for path in {*below.touched, *below.stale, *below.others, *below.failed}:
            doubtful.add(_nearest(new, path))
    for path in doubtful:
        touched.pop(path, None)
    if any(touched) or touched.get(b"") or doubtful:
        # A folder that was moved leaves no trace on the inodes in it, and one of them may have
        # another name in a folder that stayed: a layer needs both.
        for path, name in scan.linked:
            if path not in doubtful:
                touched.setdefault(path, set()).add(name)
    for path in [*touched, *doubtful]:
        while path:
            path, _, name = path.rpartition(b"/")
            if path in doubtful:
                break
            names = touched.setdefault(path, set())
            if name in names:
                break
            names.add(name)
    if b"" not in doubtful:
        touched.setdefault(b"", set())
    return touched


def _nearest(top: int, path: bytes) -> bytes:
    """The folder at ``path``, or where that is none the nearest above."""
    while path:
        with suppress(OSError):
            os.close(open_beneath(top, path, cross_mounts=False))
            break
        path = path.rpartition(b"/")[0]
    return path


class _Place:
    """A folder that is open while anything refers to this."""

    __slots__ = ("fd", "path", "scan")

    def __init__(self, scan: Scan, path: bytes, fd: int) -> None:
        self.scan = scan
        self.path = path  # from the root, with a slash at its end
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def enter(self, path: bytes) -> _Place:
        """The folder at ``path``; EXDEV where something is mounted on the way."""
        fd = open_beneath(self.fd, path, cross_mounts=False)
        return _Place(self.scan, self.path + path + b"/", fd)

    def is_far(self, path: bytes) -> bool:
        """Whether the folder at ``path`` is to be opened, for those that are in it."""
        is_deep = self.path.count(b"/") >= _DEEPEST
        return len(path) > LONGEST_PATH // 2 if is_deep else path.count(b"/") >= _STEPS


Unseen = tuple[_Place, bytes, bool]
"""A folder to look at: its path from there, and whether the one above was touched."""


class Scan:
    """What has a late ctime.

    Attributes:
        touched: paths of the folders, and none of those below ``others``.
        stale: names of what is no folder, with their types, by the path of theirs.
        others: paths of folders that may be others than those that were cloned there.
        linked: paths and names of what was not touched, and has several names. Whether somebody
            has it open is for one thread to find out: two keep each other from one inode.
        folders: the inodes of folders by their paths, but for ``others`` and what is in those.
        failed: errors of folders that could not be read, by their paths.
        ready: paths of folders but the root that have something of that, when all folders in
            them were seen; some twice.
    """

    def __init__(
        self,
        root: bytes,
        cloned: int,
        is_known: Callable[[bytes, int], bool],
        held: Container[int] | None,
    ) -> None:
        """Prepare to look for what has a ctime of ``cloned``, in nanoseconds, or later.

        Args:
            root: the path of the clone, for errors.
            cloned: when it was complete.
            is_known: whether the folder of a path has the inode that was cloned there.
            held: the inodes of folders that others have open; it is then an error, too, if a file
                that is not ``linked`` is open or mapped. None where that is not to be looked at.
        """
        self.touched: set[bytes] = set()
        self.stale: dict[bytes, dict[bytes, int]] = {}
        self.others: set[bytes] = set()
        self.linked: list[tuple[bytes, bytes]] = []
        self.folders: dict[bytes, int] = {}
        self.failed: dict[bytes, int] = {}
        self.ready: list[bytes] = []
        self._unseen: dict[bytes, list[bytes]] = {}
        self._root = root
        self._cloned = cloned
        self._is_known = is_known
        self._held = held

    def note(
        self, place: _Place, path: bytes, is_below_touched: bool, told: int | _Told
    ) -> list[Unseen]:
        """Note what is told of a folder; those in it that are to be looked at.

        Raises:
            OperationError: EBUSY where a process has something open.
        """
        full = place.path + path if path else place.path[:-1]
        if isinstance(told, int):
            self.failed[full] = told
            return []
        inode, ctime, folders, rest = told
        is_touched = ctime >= self._cloned
        is_other = is_touched and is_below_touched and not self._is_known(full, inode)
        if is_other:
            self.others.add(full)
        if is_below_touched:
            above = full.rpartition(b"/")[0]
            unseen = self._unseen[above]
            unseen.pop()
            if not unseen:
                self._note_ready(above)
        if is_other:
            return []
        if self._held is not None and inode in self._held:
            raise self.is_in_use(full)
        if len(full) <= LONGEST_PATH:  # all paths of a deep tree would take its square
            self.folders[full] = inode
        if is_touched:
            self._unseen[full] = [*folders]
            self.touched.add(full)
        for kind, name in rest:
            if kind == _HELD:
                raise self.is_in_use(os.path.join(full, name))
            if kind == _LINKED:
                self.linked.append((full, name))
            else:
                self.stale.setdefault(full, {})[name] = kind
        if not folders if is_touched else full in self.stale:
            self._note_ready(full)
        inside = path and path + b"/"
        return [(place, inside + name, is_touched) for name in folders]

    def _note_ready(self, path: bytes) -> None:
        if path:
            self.ready.append(path)

    def is_in_use(self, path: bytes) -> OperationError:
        """The error where a process has something open."""
        path = os.path.join(self._root, path)
        return OperationError(path, "undo what changed", "a process has it open", errno.EBUSY)

    def read(self, top: int, paths: tuple[bytes, ...]) -> list[int | _Told]:
        """What is told of the first of some folders, or an error."""
        if CHANGED_NAMES is None:
            return [self._read_in_python(top, path) for path in paths]
        found: list[int | _Told]
        asks = self._held is not None
        found, left = CHANGED_NAMES(top, paths, self._cloned, asks, b"")
        if left is not None:  # the last takes several calls, for which it has to stay open
            found[-1] = self._read_large(top, paths[len(found) - 1])
        return found

    def _read_large(self, top: int, path: bytes) -> int | _Told:
        try:
            fd = open_beneath(top, path, cross_mounts=False)
        except OSError as error:
            return error.errno or errno.EIO
        try:
            left: bytes | None = b""
            folders: list[bytes] = []
            rest: list[tuple[int, bytes]] = []
            while left is not None:
                asks = self._held is not None
                [told], left = CHANGED_NAMES(fd, (b"",), self._cloned, asks, left)
                if isinstance(told, int):
                    return told
                folders += told[2]
                rest += told[3]
            return *told[:2], folders, rest
        finally:
            os.close(fd)

    def _read_in_python(self, top: int, path: bytes) -> int | _Told:
        try:
            fd = open_beneath(top, path, cross_mounts=False)
        except OSError as error:
            return error.errno or errno.EIO
        try:
            own = os.fstat(fd)
            folders: list[bytes] = []
            rest: list[tuple[int, bytes]] = []
            for name in names_in(fd):
                is_open = False
                try:
                    status = os.lstat(name, dir_fd=fd)
                    if self._held is not None and stat.S_ISREG(status.st_mode):
                        is_open = is_held(fd, name)
                        status = os.lstat(name, dir_fd=fd)  # after all that was done by who had it
                except FileNotFoundError:  # somebody works in it
                    rest.append((UNKNOWN, name))
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(name)
                elif status.st_ctime_ns >= self._cloned:
                    rest.append((stat.S_IFMT(status.st_mode) >> 12, name))
                elif status.st_nlink > 1:
                    rest.append((_LINKED, name))
                elif is_open:
                    rest.append((_HELD, name))
            return own.st_ino, own.st_ctime_ns, folders, rest
        except OSError as error:
            return error.errno or errno.EIO
        finally:
            os.close(fd)


def look(scans: list[tuple[Scan, int]], most: int | None) -> None:
    """Look at all in some open folders, each for its scan, with ``most`` workers at once.

    Raises:
        OperationError: as ``Scan.note``.
    """
    workers = Workers(lambda: partial(look_at, workers), most)
    workers.run([first for scan, top in scans for first in first_folders(scan, top)])


def first_folders(scan: Scan, top: int) -> list[Unseen]:
    """What to look at first, to see all in the open folder ``top``."""
    return [(_Place(scan, b"", os.dup(top)), b"", False)]


def look_at(
    workers: Workers, folders: list[Unseen], besides: Callable[[], bool] = lambda: False
) -> None:
    """Look at ``folders`` and all in them, but for those that are given to other workers.

    Between two calls something is done ``besides``, which tells whether there may be more of that.
    """
    place: _Place | None = None
    some: list[Unseen] = []
    try:
        while True:
            half = len(folders) // 2
            if workers.pause() and half and workers.give(folders[:half]):
                del folders[:half]
            if besides():
                continue
            if not folders:
                break
            place, path, is_below_touched = folders.pop()
            if place.is_far(path):
                try:
                    place, path = place.enter(path), b""
                except OSError as error:
                    place.scan.failed[place.path + path] = error.errno or errno.EIO
                    continue
            some = [(place, path, is_below_touched)]
            while folders and len(some) < _AT_ONCE:
                if folders[-1][0] is not place or place.is_far(folders[-1][1]):
                    break
                some.append(folders.pop())
            found = place.scan.read(place.fd, tuple([path or b"." for _, path, _ in some]))
            folders += some[len(found) :]
            for folder, told in zip(some, found, strict=False):
                folders += place.scan.note(*folder, told)
    finally:  # a traceback would keep them open
        place = None
        some.clear()
        folders.clear()


def is_held(folder: int, name: bytes) -> bool:
    """Whether a file is open or mapped anywhere, as the part in C finds it out."""
    try:
        fd = open_noatime(name, folder, OPEN_FILE)
    except BlockingIOError:  # somebody has a lease
        return True
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
