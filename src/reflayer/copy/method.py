"""The method by which contents are copied: how it is chosen, and how each works.

``reflink`` shares a file's blocks (ioctl_ficlone(2)), ``range`` moves data in the kernel
(copy_file_range(2)), ``stream`` reads and writes. A named method is tried before a copy begins
(``why_not``) and never left. ``auto`` begins with the best, and goes on to the next where two file
systems answer that they cannot: that is found out by the first file of each source file system and
remembered for all others. Where one file alone cannot, it alone is copied otherwise.
"""

from __future__ import annotations

import errno
import os

from reflayer.walk.facts import OF_THE_DATA, SizeChangedError, data_extents
from reflayer.walk.folders import OPEN_FILE, OPEN_FOLDER, open_noatime
from reflayer.walk.mounts import is_mounted

try:
    from reflayer.linux.ficlone import ficlone
except ImportError:  # a platform without ioctl(2)

    def ficlone(dst_fd: int, src_fd: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _no_copy_file_range(*arguments: int) -> int:  # noqa: ARG001
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


_copy_file_range = getattr(os, "copy_file_range", _no_copy_file_range)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    MoveExtent = Callable[[int, int, int, int], None]

LADDER = ("reflink", "range", "stream")
"""The methods for content, best first."""

METHODS = ("auto", *LADDER)
"""The names that ``copy_tree`` takes."""

_NOT_SUPPORTED = {
    # Any other answer speaks of one file alone (EINVAL: NOCOW, ETXTBSY: a swap file), so it lowers
    # the method for that and says nothing of the next.
    "reflink": frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS}),
    "range": frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS}),
    "stream": frozenset[int](),
}
_STEP = 1 << 26  # bytes between two looks at whether the copy is still wanted
_BUFFER = 1 << 20  # bytes that stream reads at once
_DEPTH = 32  # levels that are searched for a file to try with
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


class Method:
    """Copies contents by the best method that works, decided once for each source file system.

    Attributes:
        moved: bytes of content by method; ``reflink`` counts a file's size, the others its data.
    """

    def __init__(self, name: str, pause: Callable[[], object] = lambda: None) -> None:
        """Use the method ``name``; ``pause`` is called now and then in a large file."""
        self.moved: dict[str, int] = {}
        self._pause = pause
        self._rungs = LADDER if name == "auto" else (name,)
        self._decided: dict[int, str] = {}

    def on(self, device: int) -> str:
        """The method that files of ``device``, an st_dev, are copied by now."""
        return self._decided.get(device) or self._rungs[0]

    def count_moved(self, method: str, size: int) -> None:
        """Count bytes; with nothing but holes any method works."""
        if size:
            self.moved[method] = self.moved.get(method, 0) + size

    def copy(self, src: int, dst: int, size: int, device: int) -> None:
        """Copy all ``size`` bytes of ``src`` to the empty file ``dst``; ``device`` is its st_dev.

        Raises:
            SizeChangedError: the source is shorter or longer than ``size`` now.
        """
        if not size:
            self._copy_unsized(src, dst)
            return
        method = self.on(device)
        while True:
            try:
                moved = _MOVE[method](src, dst, size, self._pause)
                break
            except OSError as error:
                method = self._lower(device, method, error)
        self.count_moved(method, moved)
        if os.lseek(src, 0, os.SEEK_END) != size:
            raise SizeChangedError

    def _copy_unsized(self, src: int, dst: int) -> None:
        """Copy a file that says it is empty: what there is shows when it is read (proc(5))."""
        if not os.pread(src, 1, 0):
            return
        if self._rungs[-1] != "stream":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self.count_moved("stream", _read_to_end(src, dst, 0, self._pause))

    def _lower(self, device: int, method: str, error: OSError) -> str:
        """The method to try for this file after ``error``; remembered where the pair cannot."""
        if method == self._rungs[-1] or error.errno in OF_THE_DATA:
            raise error
        below = self._rungs[self._rungs.index(method) + 1]
        if error.errno in _NOT_SUPPORTED[method]:
            self._decided[device] = below
        return below


def why_not(method: str, src: int, dst: int) -> OSError | None:
    """The error that ``method`` meets between two folders, or None where it works.

    Tried with a file of the source that is not empty, on its own file system only, which is only
    read, and a nameless one of the destination. Without such a file everything works.

    Raises:
        OSError: the source cannot be read or the destination not be written for another reason.
    """
    file = -1 if method == "stream" else _first_file(src, os.fstat(src).st_dev, _DEPTH)
    if file < 0:
        return None
    try:
        scratch = _scratch_file(dst)
        try:
            if method == "reflink":
                ficlone(scratch, file)
            else:
                _copy_file_range(file, scratch, 1, 0)
        except OSError as error:
            if error.errno in OF_THE_DATA:
                raise
            return error
        finally:
            os.close(scratch)
    finally:
        os.close(file)
    return None


def best_method(src: int, dst: int) -> str:
    """The method that ``auto`` comes to for files of the open folder ``src``."""
    return next(method for method in LADDER if why_not(method, src, dst) is None)


def _first_file(folder: int, device: int, depth: int) -> int:
    """Open the first regular file with content below ``folder``; -1 where there is none."""
    folders = []
    if os.fstat(folder).st_dev != device:  # a subvolume
        return -1
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size:
                return open_noatime(entry.name, folder, OPEN_FILE)
    for name in folders if depth else ():
        if is_mounted(folder, name):
            continue
        child = open_noatime(name, folder, OPEN_FOLDER)
        try:
            file = _first_file(child, device, depth - 1)
        finally:
            os.close(child)
        if file >= 0:
            return file
    return -1


def _scratch_file(folder: int) -> int:
    """A file without a name in the open ``folder`` (open(2): O_TMPFILE), for writing."""
    try:
        if hasattr(os, "O_TMPFILE"):
            return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    name = f".reflayer-{os.urandom(8).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    os.unlink(name, dir_fd=folder)
    return fd


def _reflink(src: int, dst: int, size: int, pause: Callable[[], object]) -> int:  # noqa: ARG001
    ficlone(dst, src)
    return size


def _range(src: int, dst: int, size: int, pause: Callable[[], object]) -> int:
    return _extents(src, dst, size, _range_extent, pause)


def _range_extent(src: int, dst: int, offset: int, end: int) -> None:
    while offset < end:
        moved = _copy_file_range(src, dst, end - offset, offset, offset)
        if moved == 0:
            # The end of the file, or a file system that answers 0 for what it cannot copy.
            if os.fstat(src).st_size < end:
                raise SizeChangedError
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        offset += moved


def _stream(src: int, dst: int, size: int, pause: Callable[[], object]) -> int:
    try:
        return _extents(src, dst, size, _stream_extent, pause)
    except SizeChangedError:
        if os.fstat(src).st_size != size:
            raise
        return _read_to_end(src, dst, size, pause)


def _read_to_end(src: int, dst: int, size: int, pause: Callable[[], object]) -> int:
    """Copy all that reading gives; return how many bytes.

    Some file systems tell of each file the same size, whatever is in it (proc and sysfs: nothing,
    or a page). But a size that is another one afterwards was one.
    """
    offset = 0
    while block := os.pread(src, _BUFFER, offset):
        _write(dst, block, offset)
        offset += len(block)
        pause()
    if os.fstat(src).st_size != size:
        raise SizeChangedError
    os.ftruncate(dst, offset)
    return offset


def _stream_extent(src: int, dst: int, offset: int, end: int) -> None:
    while offset < end:
        block = os.pread(src, min(end - offset, _BUFFER), offset)
        if not block:
            raise SizeChangedError
        _write(dst, block, offset)
        offset += len(block)


def _write(dst: int, block: bytes, offset: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(dst, view, offset)
        view = view[written:]
        offset += written


def _extents(src: int, dst: int, size: int, move: MoveExtent, pause: Callable[[], object]) -> int:
    """Move each part that holds data, leave the holes; return the bytes moved."""
    moved = 0
    for start, end in data_extents(src, size):
        if not moved and (start, end) != (0, size):
            # First: a file system that expects a growing file to go on growing fills the holes.
            os.ftruncate(dst, size)
        moved += end - start
        while end - start > _STEP:
            move(src, dst, start, start + _STEP)
            start += _STEP
            pause()
        move(src, dst, start, end)
    if not moved:
        os.ftruncate(dst, size)
    return moved


_MOVE = {"reflink": _reflink, "range": _range, "stream": _stream}
