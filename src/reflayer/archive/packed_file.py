"""A regular file's data as a tar has it: all of it, or the map of a sparse file and its extents."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.archive.tar_writer import padding
from reflayer.copy.content import SizeChangedError, data_extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BUFFER = 1 << 18


class PackedFile:
    """One open file on its way into a tar.

    Attributes:
        status: of the file.
        size: bytes of data in the tar.
        records: what its PAX header says of its holes (GNU tar manual, Sparse Formats: PAX 1.0).
    """

    def __init__(self, fd: int, path: bytes, *, sparse: bool) -> None:
        """Look at the open file ``fd``, which is to be called ``path``.

        Its holes are told where ``sparse``; otherwise they are zeros.

        Raises:
            OSError: ESTALE when it is no regular file any more; as lseek(2) says.
        """
        self.status = status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "it changed meanwhile")
        self._fd = fd
        self._size = status.st_size
        if not self._size and os.pread(fd, 1, 0):  # proc(5): what there is shows when it is read
            from shutil import copyfileobj
            from tempfile import TemporaryFile

            self._spool = TemporaryFile()  # noqa: SIM115  # closed with this object
            with open(fd, "rb", closefd=False) as file:
                copyfileobj(file, self._spool)
            self._spool.flush()
            self._fd, self._size = self._spool.fileno(), self._spool.tell()
        self._table = b""
        self._extents = [(0, self._size)] if self._size else []
        self.records: dict[bytes, bytes] = {}
        if sparse and status.st_size:
            self._find_holes(path)
        self.size = len(self._table) + sum(end - start for start, end in self._extents)

    def data(self) -> Iterator[bytes]:
        """The data and what follows it up to the next header.

        Raises:
            OSError: it cannot be read.
            SizeChangedError: it has become shorter or longer.
        """
        if self._table:
            yield self._table
        for start, end in self._extents:
            while start < end:
                block = os.pread(self._fd, min(end - start, _BUFFER), start)
                if not block:
                    raise SizeChangedError
                start += len(block)
                yield block
        if os.fstat(self._fd).st_size != self._size:
            raise SizeChangedError
        yield padding(self.size)

    def _find_holes(self, path: bytes) -> None:
        size = self.status.st_size
        extents = list(data_extents(self._fd, size))
        if extents == [(0, size)]:
            return
        self._extents = extents
        self._table = _sparse_map(extents, size)
        self.records = {
            b"GNU.sparse.major": b"1",
            b"GNU.sparse.minor": b"0",
            b"GNU.sparse.name": path,
            b"GNU.sparse.realsize": b"%d" % size,
        }


def _sparse_map(extents: list[tuple[int, int]], size: int) -> bytes:
    """The map of a file of ``size`` bytes that has data only in ``extents``, in whole blocks."""
    if not extents or extents[-1][1] != size:
        extents = [*extents, (size, size)]  # GNU tar takes the end of the last one for the file's
    numbers = [len(extents)]
    for start, end in extents:
        numbers += [start, end - start]
    lines = b"".join(b"%d\n" % number for number in numbers)
    return lines + padding(len(lines))
