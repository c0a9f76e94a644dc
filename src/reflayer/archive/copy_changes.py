"""What changed in a clone is copied into a difference on its stack.

What changed is told by ctimes, as ``undo`` tells it, and nothing is compared: a file with a late
one is copied, with all its names; of a folder with a late one the names that are missing are
hidden. A folder that may be another than the one that was cloned there is copied with all in it,
and hides what is below it.

Others may write meanwhile. What they change has a later ctime than the beginning, so that it is in
the next difference, too; a file that changes while it is copied is copied once more, and a folder
that has gone by then is hidden.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from contextlib import contextmanager, suppress
from functools import partial

from reflayer.archive.copy_up import copy_up, folder_facts
from reflayer.archive.undo import is_known
from reflayer.archive.untouched import UNKNOWN, Scan, look
from reflayer.archive.upper import Upper
from reflayer.errors import OperationError, failing
from reflayer.linux.names import listed, native
from reflayer.record import record
from reflayer.walk.empty import empty_folder
from reflayer.walk.facts import FailedError, SizeChangedError
from reflayer.walk.folders import (
    LONGEST_PATH,
    NO_FOLDER,
    OPEN_ANY_FOLDER,
    OPEN_FILE,
    OPEN_FOLDER,
    identity,
    names_in,
    open_beneath,
    open_noatime,
)
from reflayer.walk.overlay import WHITEOUT_MODE
from reflayer.walk.stack import Part, Union, opened_in, stack_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from reflayer.walk.folders import AnyPath
    from reflayer.walk.id_map import Conversion
    from reflayer.walk.stack import AnyStack

    Names = Mapping[bytes, int]
    """Names with their types (getdents64(2): d_type)."""

_write_back_names: Any = getattr(native, "write_back_names", None)

_FILE, _LINK = stat.S_IFREG >> 12, stat.S_IFLNK >> 12
_TRIES = 10  # at a file that others write to
_GONE = frozenset({errno.ENOENT, *NO_FOLDER})


@record
class Copied:
    """What ``copy_changes`` has made.

    Attributes:
        names: how many, with those that only hide one; without the root.
        size: bytes of the files.
        is_same: whether nothing has changed, and nothing was made.
        paths: the inodes of the folders of the clone by their paths, as they are now.
    """

    names: int
    size: int
    is_same: bool
    paths: dict[bytes, int]


def copy_changes(
    root: AnyPath,
    stack: AnyStack,
    cloned: int,
    upper: AnyPath,
    *,
    known: Mapping[int, int] | None = None,
    paths: Mapping[bytes, int] | None = None,
    ids: Conversion | None = None,
    method: str = "auto",
    ownership: str = "keep",
    workers: int | None = None,
) -> Copied:
    """Copy into ``upper`` what changed in the folder ``root`` since it was a clone of ``stack``.

    Args:
        root: the clone. Access times in it stay as they are.
        stack: of what it was one; not changed since.
        cloned: when that was, in nanoseconds, by the clock that stamps its inodes.
        upper: an empty folder, which becomes a difference on ``stack``. Where nothing has changed
            it stays empty.
        known: the inodes of folders in ``root`` at that time, as ``undo`` takes them.
        paths: likewise.
        ids: what makes the owners in the difference of those in ``root``.
        method: how content is copied, as for ``copy_tree``.
        ownership: as for ``copy_tree``.
        workers: threads that look at it.

    Raises:
        OperationError: it cannot be told what changed, or not be copied.
    """
    path = os.fsencode(root)
    with failing(path, "copy what changed"):
        top = open_noatime(path, None, OPEN_ANY_FOLDER)
        try:
            with Union.root(stack_of(stack)) as below:
                scan = Scan(path, cloned, partial(is_known, known or {}, paths or {}, below), None)
                look([(scan, top)], workers)
                for failed, number in scan.failed.items():
                    above, _, name = failed.rpartition(b"/")
                    if number not in _GONE:
                        raise OSError(number, os.strerror(number), os.path.join(path, failed))
                    scan.stale.setdefault(above, {})[name] = UNKNOWN
                if not (scan.touched or scan.stale):
                    return Copied(0, 0, True, scan.folders)
                fd = os.open(upper, OPEN_ANY_FOLDER)
                try:
                    return _Changes(path, top, fd, below, ids, method, ownership).copy(scan)
                finally:
                    os.close(fd)
        finally:
            os.close(top)


class _GoneError(Exception):
    """A folder is not there any more."""


class _Changes:
    """One difference that is being filled."""

    def __init__(
        self,
        path: bytes,
        top: int,
        upper: int,
        below: Union,
        ids: Conversion | None,
        method: str,
        ownership: str,
    ) -> None:
        self._path = path
        self._top = top
        self._below = below
        self._ids = ids
        self._to = Upper(upper, method, ownership, ids)
        self._made: dict[bytes, bool] = {b"": False}  # folders; whether they are of the difference
        self._links: dict[tuple[int, int], tuple[bytes, bytes]] = {}
        self._folders: dict[bytes, int] = {}
        self._gone: list[bytes] = []
        self._names = self._size = 0
        self._takes_any_size = False

    def copy(self, scan: Scan) -> Copied:
        self._folders = scan.folders
        for path in scan.touched:
            self._enter(path)
            self._made[path] = True
        for path, names in scan.stale.items():  # before any is copied, so that none is waited for
            with suppress(_GoneError), self._opened(path) as (src, _):
                _write_back(src, names)
        for path, names in scan.stale.items():
            with suppress(_GoneError), self._opened(path) as (src, dst):
                self._make_names(path, src, dst, names)
        for path in scan.others:
            self._copy_tree(path)
        for path in scan.touched:
            self._hide(path)
        self._copy_other_names(scan.linked)
        while True:
            # A folder's times change with the names in it, so those further down come first.
            for path in sorted(self._made, key=_depth, reverse=True):
                with suppress(_GoneError):
                    self._settle(path)
            if not self._gone:
                break
            self._hide_gone()
        made = self._names + self._to.names
        return Copied(made, self._size + self._to.size, False, self._folders)

    def _enter(self, path: bytes) -> None:
        """Have a folder that is below in the difference, and those on the way to it."""
        missing = []
        while path not in self._made:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        for one in reversed(missing):
            self._mkdir(one)
            self._made[one] = False

    def _mkdir(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        fd = open_beneath(self._to.fd, above)
        try:
            os.mkdir(name, 0o700, dir_fd=fd)
        finally:
            os.close(fd)
        self._names += 1

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[tuple[int, int]]:
        """A folder of the clone, which is entered, and its counterpart, both open."""
        self._enter(path)
        src = self._open(path)
        try:
            dst = open_beneath(self._to.fd, path)
            try:
                yield src, dst
            finally:
                os.close(dst)
        finally:
            os.close(src)

    def _open(self, path: bytes) -> int:
        try:
            fd = open_beneath(self._top, path, cross_mounts=False)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            if path not in self._gone:
                self._gone.append(path)
            raise _GoneError from error
        inode = os.fstat(fd).st_ino
        if inode != self._folders.get(path, inode):
            # It, or one above, has another's place: neither may be known when that is back.
            while path:
                self._folders.pop(path, None)
                path = path.rpartition(b"/")[0]
        return fd

    def _hide_gone(self) -> None:
        """Let the difference have none of the folders that have gone, and hide what is below."""
        for path in self._gone:  # which may become more
            above, _, name = path.rpartition(b"/")
            if above not in self._made:  # it went with that
                continue
            with suppress(_GoneError), self._opened(above) as (_, dst):
                with suppress(FileNotFoundError):
                    empty_folder(os.open(name, OPEN_FOLDER, dir_fd=dst), self._path)
                    os.rmdir(name, dir_fd=dst)
                self._hide_name(above, dst, name)
            inside = os.path.join(path, b"")
            for one in [*self._made.keys() | self._folders.keys()]:
                if (one + b"/").startswith(inside):
                    self._made.pop(one, None)
                    self._folders.pop(one, None)
        self._gone.clear()

    def _copy_name(self, path: bytes, src: int, dst: int, name: bytes) -> None:
        """Copy what is no folder, by one of its names; hide what is below if it has gone by now."""
        for tries_left in reversed(range(_TRIES)):
            status = _status(src, name)
            if status is None or stat.S_ISDIR(status.st_mode):  # that is the next one's
                break
            failed = self._try(status, src, dst, name, is_last=not tries_left)
            after = _status(src, name)
            is_same = after is not None and _version(after) == _version(status)
            if failed is None and (is_same or not tries_left):
                if status.st_nlink > 1:
                    self._links.setdefault(identity(status), (path, name))
                self._names += 1
                self._size += status.st_size if stat.S_ISREG(status.st_mode) else 0
                return
            if failed is not None and is_same:
                raise self._failed(path, name, failed.cause, failed.operation) from failed
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=dst)
        self._hide_name(path, dst, name)

    def _try(
        self, status: os.stat_result, src: int, dst: int, name: bytes, *, is_last: bool
    ) -> FailedError | None:
        """Make a name; as which what fails is returned, since it may be another file by now."""
        self._takes_any_size = is_last
        try:
            if status.st_nlink > 1 and identity(status) in self._links:
                self._link(identity(status), dst, name)
            else:
                part, skip = Part(src, True, 0, self._ids), self._to.metadata.skip
                to, copy = self._to, self._copy_content
                copy_up(part, part.status(status), name, dst, to.metadata, to.marks, copy, skip)
        except SizeChangedError as error:
            return FailedError("copy", OSError(errno.ESTALE, str(error)))
        except FailedError as error:
            return error
        except OSError as error:
            return FailedError("copy", error)
        return None

    def _copy_content(self, src: int, dst: int, size: int, device: int) -> None:
        _write_back_if_held(src)
        try:
            if os.fstat(src).st_size != size:
                raise SizeChangedError
            self._to.method.copy(src, dst, size, device)
        except SizeChangedError:
            if not self._takes_any_size:
                raise

    def _link(self, inode: tuple[int, int], dst: int, name: bytes) -> None:
        path, first = self._links[inode]
        fd = open_beneath(self._to.fd, path)
        try:
            os.link(first, name, src_dir_fd=fd, dst_dir_fd=dst, follow_symlinks=False)
        finally:
            os.close(fd)

    def _copy_tree(self, path: bytes) -> None:
        """Copy a folder with all in it, which hides what is below."""
        above, _, name = path.rpartition(b"/")
        self._enter(above)
        self._mkdir(path)
        with opened_in(self._below, above) as below:
            found = below.find(name)
        if found is not None and stat.S_ISDIR(found[1].st_mode):
            fd = open_beneath(self._to.fd, path)
            try:
                self._to.marks.set_opaque(fd)
            finally:
                os.close(fd)
        todo = [path]
        while todo:
            one = todo.pop()
            self._made[one] = True
            with suppress(_GoneError), self._opened(one) as (src, dst):
                if len(one) <= LONGEST_PATH:
                    self._folders[one] = os.fstat(src).st_ino
                todo += [os.path.join(one, folder) for folder in self._fill(one, src, dst)]

    def _fill(self, path: bytes, src: int, dst: int) -> list[bytes]:
        """Make all names of an open folder in its counterpart; return those of empty folders."""
        folders: list[bytes] = []
        names: dict[bytes, int] = {}
        with os.scandir(src) as scan:
            for entry in scan:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(os.fsencode(entry.name))
                else:
                    names[os.fsencode(entry.name)] = _kind(entry)
        for name in folders:
            os.mkdir(name, 0o700, dir_fd=dst)
        self._names += len(folders)
        if self._to.method.on(os.fstat(src).st_dev) != "reflink":  # which writes it back
            _write_back(src, names)
        self._make_names(path, src, dst, names)
        return folders

    def _make_names(self, path: bytes, src: int, dst: int, names: Names) -> None:
        """Make what is no folder, and was written back where that is needed, in a counterpart."""
        for name in self._to.clone_names(src, dst, ((kind, name) for name, kind in names.items())):
            self._copy_name(path, src, dst, name)

    def _hide(self, path: bytes) -> None:
        """Hide the names below that a folder has no more."""
        with suppress(_GoneError), self._opened(path) as (src, dst):
            with opened_in(self._below, path) as below:
                gone = {*below.names()} - names_in(src)
            for name in gone:
                folder = os.path.join(path, name)
                if folder not in self._folders:
                    self._make_whiteout(dst, name)
                elif folder not in self._gone:  # since it was looked at
                    self._gone.append(folder)

    def _hide_name(self, path: bytes, dst: int, name: bytes) -> None:
        """Hide a name that went before it was copied, if it is below."""
        with suppress(OSError), opened_in(self._below, path) as below:
            if below.find(name) is not None:
                self._make_whiteout(dst, name)

    def _make_whiteout(self, dst: int, name: bytes) -> None:
        with suppress(FileExistsError):
            os.mknod(name, WHITEOUT_MODE, 0, dir_fd=dst)
            self._names += 1

    def _copy_other_names(self, linked: list[tuple[bytes, bytes]]) -> None:
        """Of a file that was not touched, but copied with a folder, all names have to be there."""
        if not self._links:
            return
        for path, name in linked:
            with suppress(FileNotFoundError, _GoneError):
                fd = self._open(path)
                try:
                    is_copied = identity(os.lstat(name, dir_fd=fd)) in self._links
                finally:
                    os.close(fd)
                if is_copied:
                    with self._opened(path) as (src, dst):
                        self._copy_name(path, src, dst, name)

    def _settle(self, path: bytes) -> None:
        """Give a folder its metadata."""
        try:
            with self._opened(path) as (src, dst):
                if not self._made[path]:
                    self._to.marks.set_implied(dst)
                facts = folder_facts(Part(src, True, 0, self._ids), self._to.metadata.skip)
                self._to.metadata.set_all(dst, facts, -1, -1, -1)
        except FailedError as error:
            raise self._failed(path, b"", error.cause, error.operation) from error

    def _failed(
        self, path: bytes, name: bytes, error: OSError, operation: str = "copy"
    ) -> OperationError:
        where = os.path.join(self._path, path, name).rstrip(b"/")
        return OperationError.from_os_error(error, where, operation)


def _status(folder: int, name: bytes) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.lstat(name, dir_fd=folder)
    return None


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return _FILE
    return _LINK if entry.is_symlink() else UNKNOWN


def _version(status: os.stat_result) -> tuple[int, int, int]:
    # A write sets the ctime before the size.
    return status.st_ino, status.st_ctime_ns, status.st_size


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0


def _write_back(folder: int, names: Names) -> None:
    """Begin to write out some files, and wait for it where somebody may write to one.

    A file is written out before it is reflinked, and all of them in the end.
    """
    from reflayer.linux.libc import begin_to_write_out

    rest = [name for name, kind in names.items() if kind == _FILE]
    if _write_back_names is not None:
        files, rest = [(_FILE, name) for name in rest], []
        for piece in listed(files):
            left: bytes | None = piece
            while left:
                _, _, others, left = _write_back_names(folder, left)
                rest += [name for _, name in others]
    for name in rest:
        with suppress(OSError):  # what it is, and why it cannot be read, the copy tells
            if stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode):
                fd = open_noatime(name, folder, OPEN_FILE)
                try:
                    if not _write_back_if_held(fd):
                        begin_to_write_out(fd)
                finally:
                    os.close(fd)


def _write_back_if_held(file: int) -> bool:
    """Let whoever stores into a mapping of an open file from now on change its ctime by that.

    That is so where its pages are clean, as after a reflink. It is only done for what somebody may
    write to, which a lease tells of (fcntl(2)).
    """
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        os.fdatasync(file)
        return True
    return False
