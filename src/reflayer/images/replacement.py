"""A file that has a name only when all of it is written: nobody sees less, no crash leaves some.

open(2), "O_TMPFILE".
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_OPEN_FILES = "/proc/self/fd"
_BUFFER = 1 << 20  # bytes
_MODE = 0o666  # less the umask


@contextmanager
def replacement(path: str) -> Iterator[BinaryIO]:
    """A new file, open for writing, that becomes ``path`` when the block is through.

    It is written out (fsync(2)) before that. What was called so, if it was a regular file, is there
    until then, and for good where the block fails. Of a link, the file that it leads to is
    replaced. A process that is killed leaves nothing but where the file system knows no files
    without a name (NFS): there, and for the moment in which one replaces another,
    ``.reflayer-DIGITS`` is beside the path.

    Raises:
        OSError: it cannot be made or written.
    """
    folder, name = os.path.split(os.path.realpath(path))
    passing = f".reflayer-{os.urandom(8).hex()}"
    folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = _open_nameless(folder_fd)
        is_nameless = fd is not None
        if fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(passing, flags, _MODE, dir_fd=folder_fd)
        with open(fd, "wb", buffering=_BUFFER) as out:
            yield out
            out.flush()
            os.fsync(fd)
            if is_nameless and _link(fd, folder_fd, name):
                return
            if is_nameless:
                _link(fd, folder_fd, passing)
            os.rename(passing, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(passing, dir_fd=folder_fd)
        os.close(folder_fd)


def _open_nameless(folder_fd: int) -> int | None:
    """A file without a name; None where there are none, or where it could get no name."""
    if not os.path.exists(_OPEN_FILES):
        return None
    try:
        return os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, _MODE, dir_fd=folder_fd)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return None


def _link(fd: int, folder_fd: int, name: str) -> bool:
    """Give a file without one this name; False where it is taken (linkat(2), AT_SYMLINK_FOLLOW)."""
    try:
        os.link(f"{_OPEN_FILES}/{fd}", name, dst_dir_fd=folder_fd)
    except FileExistsError:
        return False
    return True
