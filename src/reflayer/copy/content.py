"""The content of one file: shared by FICLONE, moved by copy_file_range(2), or read and written."""

from __future__ import annotations

import errno
import os

from reflayer.walk.facts import OF_THE_DATA, SizeChangedError, data_extents

try:
    from reflayer.linux.ficlone import ficlone as ficlone
except ImportError:  # a platform without ioctl(2)

    def ficlone(dst_fd: int, src_fd: int) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _no_copy_file_range(*arguments: int) -> int:  # noqa: ARG001
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


copy_file_range = getattr(os, "copy_file_range", _no_copy_file_range)
"""copy_file_range(2), where the platform has it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LADDER = ("reflink", "range", "stream")
"""The methods for content, best first."""

_STEP = 1 << 26  # bytes between two looks at whether the copy is still wanted
_BUFFER = 1 << 20  # bytes that stream reads at once

NOT_SUPPORTED = {
    # Any other answer speaks of one file alone (EINVAL: NOCOW, ETXTBSY: a swap file), so it lowers
    # the method for that and says nothing of the next.
    "reflink": frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.ENOSYS}),
    "range": frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS}),
    "stream": frozenset[int](),
}
"""The answers of each method's call that mean that two file systems cannot."""


class Content:
    """Copies contents by the best method that works, decided once for each source file system.

    Attributes:
        moved: bytes of content by method; ``reflink`` counts a file's size, the others its data.
    """

    def __init__(
        self, method: str, fall_back: bool, pause: Callable[[], object] = lambda: None
    ) -> None:
        """Use ``method``; go on to those below it where ``fall_back`` and it is not supported.

        ``pause`` is called now and then in the middle of a large file.
        """
        start = LADDER.index(method)
        self.moved: dict[str, int] = {}
        self._pause = pause
        self._rungs = LADDER[start:] if fall_back else (method,)
        self._decided: dict[int, str] = {}

    def method(self, device: int) -> str:
        """The method that files of ``device`` are copied by now."""
        return self._decided.get(device) or self._rungs[0]

    def count_moved(self, method: str, size: int) -> None:
        """Count bytes; with nothing but holes any method works."""
        if size:
            self.moved[method] = self.moved.get(method, 0) + size

    def copy(self, src: int, dst: int, size: int, device: int) -> None:
        """Copy all ``size`` bytes of ``src`` to the empty file ``dst``; ``device`` is its st_dev.

        Raises:
            OSError: as the system call of the last method tried says.
            SizeChangedError: the source is shorter or longer than ``size`` now.
        """
        if not size:
            self._copy_unsized(src, dst)
            return
        method = self.method(device)
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
        moved = _read_to_end(src, dst, 0, self._pause)
        self.count_moved("stream", moved)

    def _lower(self, device: int, method: str, error: OSError) -> str:
        """The method to try for this file after ``error``; remembered where the pair cannot."""
        if method == self._rungs[-1] or error.errno in OF_THE_DATA:
            raise error
        below = self._rungs[self._rungs.index(method) + 1]
        if error.errno in NOT_SUPPORTED[method]:
            self._decided[device] = below
        return below


def _reflink(src: int, dst: int, size: int, pause: Callable[[], object]) -> int:  # noqa: ARG001
    ficlone(dst, src)
    return size


def _range(src: int, dst: int, size: int, pause: Callable[[], object]) -> int:
    return _extents(src, dst, size, _range_extent, pause)


def _range_extent(src: int, dst: int, offset: int, end: int) -> None:
    while offset < end:
        moved = copy_file_range(src, dst, end - offset, offset, offset)
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

    Raises:
        SizeChangedError: it is not ``size`` any more.
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


def _extents(
    src: int,
    dst: int,
    size: int,
    move: Callable[[int, int, int, int], None],
    pause: Callable[[], object],
) -> int:
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
