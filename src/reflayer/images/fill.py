"""A blob's bytes into a new file: shared where the file system can, and hashed."""

from __future__ import annotations

import os
import stat

from reflayer.copy.content import LADDER, SizeChangedError
from reflayer.copy.content import Content as FileContent
from reflayer.errors import ImageError, OperationError
from reflayer.images.digest import Unhashed, hash_like

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash as Hash
    from typing import BinaryIO

    Told = Callable[[int], None]

_BUFFER = 1 << 20


def fill(
    fd: int, source: BinaryIO, digest: str | None, most: int | None, progress: Told | None
) -> tuple[Hash, int]:
    """Write all of ``source`` to the empty file ``fd``; return its hash and its size in bytes.

    Args:
        fd: open for reading and writing.
        source: read to its end, but no more than a buffer beyond ``most`` bytes.
        digest: tells the algorithm; sha256 without it.
        most: bytes that it should have; whoever calls compares.
        progress: is called with the number of bytes that are done.

    Raises:
        OSError: as read(2), write(2) and copy_file_range(2) say.
        ImageError: the source changed meanwhile.
    """
    hashing = hash_like(digest)
    size = _regular_size(source)
    if size is None:
        return hashing, _stream(fd, source, hashing, most, progress)
    if most is not None and size != most:
        return hashing, size
    _share(source, fd, size)
    # What is hashed is what is kept, whatever happens to the source.
    return hashing, _hash(fd, hashing, progress)


def keep(fd: int, source: BinaryIO) -> int:
    """Write all of ``source`` to the empty file ``fd``, as ``fill`` does; return its size.

    The file's position is at its start then.

    Raises:
        OSError, ImageError: as ``fill``.
    """
    size = _regular_size(source)
    if size is None:
        size = _stream(fd, source, Unhashed(), None, None)
    else:
        _share(source, fd, size)
    os.lseek(fd, 0, os.SEEK_SET)
    return size


def _regular_size(source: BinaryIO) -> int | None:
    """The size of a regular file that nothing has been read of; None for anything else."""
    try:
        status = os.fstat(source.fileno())
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) and source.tell() == 0 else None


def _share(source: BinaryIO, fd: int, size: int) -> None:
    """Copy a regular file, in the kernel where that can."""
    try:
        FileContent(LADDER[0], fall_back=True).copy(source.fileno(), fd, size, 0)
    except SizeChangedError as error:
        raise ImageError(f"a blob was being written while it was read: {error}") from error


def write_all(fd: int, data: memoryview) -> None:
    """Write ``data`` at the file's position.

    Raises:
        OSError: as write(2) says.
    """
    while data:
        data = data[os.write(fd, data) :]


def _stream(
    fd: int,
    source: BinaryIO,
    hashing: Hash | Unhashed,
    most: int | None,
    progress: Told | None,
) -> int:
    count = 0
    while data := _read(source):
        count += len(data)
        if most is not None and count > most:
            break
        hashing.update(data)
        write_all(fd, memoryview(data))
        if progress is not None:
            progress(count)
    return count


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(_BUFFER)
    except OSError as error:
        raise OperationError.from_os_error(error, b"the blob", "read") from error


def _hash(fd: int, hashing: Hash, progress: Told | None) -> int:
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    count = 0
    os.lseek(fd, 0, os.SEEK_SET)
    while length := os.readv(fd, [buffer]):
        hashing.update(view[:length])
        count += length
        if progress is not None:
            progress(count)
    return count
