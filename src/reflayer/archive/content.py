"""The content of a file, out of the stream and into the file."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.archive.sparse import SparseMap
    from reflayer.archive.tar_stream import TarStream

_BLOCK = 4096  # bytes; of most file systems, and a hole is whole blocks
_ZEROS = bytes(_BLOCK)


def write_content(fd: int, stream: TarStream, sparse: SparseMap | None) -> None:
    """Write all data of the entry at hand to the new, empty file ``fd``.

    What its map says are holes come out as holes, and so do blocks of zeros, since not every
    program that makes layers knows of maps.

    Raises:
        ArchiveError: the archive ends too early.
        OSError: as write(2) or ftruncate(2) says.
    """
    if sparse is None:
        _write_all(fd, stream, stream.left)
        return
    # First: a file system that expects a growing file to go on growing would fill the holes.
    os.ftruncate(fd, sparse.size)
    for offset, length in sparse:
        _write(fd, stream, offset, length)


def _write_all(fd: int, stream: TarStream, size: int) -> None:
    piece = stream.data(size)
    if size < _BLOCK and len(piece) == size:
        _write_at(fd, piece, 0)
        return
    islands = list(_islands(piece, 0))
    if len(piece) < size or islands != [(0, size)]:
        os.ftruncate(fd, size)
    for start, end in islands:
        _write_at(fd, piece[start:end], start)
    _write(fd, stream, len(piece), size - len(piece))


def _write(fd: int, stream: TarStream, offset: int, size: int) -> None:
    while size:
        piece = stream.data(size)
        for start, end in _islands(piece, offset):
            _write_at(fd, piece[start:end], offset + start)
        offset += len(piece)
        size -= len(piece)


def _islands(piece: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """Where ``piece``, which belongs at ``offset``, is more than zeros.

    It is looked at by the file's blocks, and by what the piece has of a block at its ends. That the
    first byte is none of zeros tells of most, and of all of them in one call.
    """
    head = min(-offset % _BLOCK, len(piece))
    start = head if head and _is_zeros(piece[:head]) else 0
    firsts = piece[head::_BLOCK].tobytes()
    number = firsts.find(0)
    while number >= 0:
        at = head + number * _BLOCK
        block = piece[at : at + _BLOCK]
        if _is_zeros(block):
            if start < at:
                yield start, at
            start = at + len(block)
        number = firsts.find(0, number + 1)
    if start < len(piece):
        yield start, len(piece)


def _is_zeros(block: memoryview) -> bool:
    return block[-1] == 0 and _ZEROS.startswith(block)


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while (written := os.pwrite(fd, data, offset)) < len(data):
        data = data[written:]
        offset += written
