"""The content of a file, out of the stream and into the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reflayer.archive.sparse import SparseMap
    from reflayer.archive.tar_stream import TarStream


def write_content(fd: int, stream: TarStream, sparse: SparseMap | None) -> None:
    """Write all data of the entry at hand to the empty file ``fd``; holes come out as holes.

    Raises:
        ArchiveError: the archive ends too early.
        OSError: as write(2) or ftruncate(2) says.
    """
    if sparse is None:
        _write(fd, stream, stream.left)
        return
    # First: a file system that expects a growing file to go on growing would fill the holes.
    os.ftruncate(fd, sparse.size)
    for offset, length in sparse:
        os.lseek(fd, offset, os.SEEK_SET)
        _write(fd, stream, length)


def _write(fd: int, stream: TarStream, size: int) -> None:
    while size:
        piece = stream.data(size)
        size -= len(piece)
        while (written := os.write(fd, piece)) < len(piece):
            piece = piece[written:]
