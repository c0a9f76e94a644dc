"""The blocks of a tar and the data between them, out of chunks."""

from __future__ import annotations

from reflayer.archive.tar_header import BLOCK, ZERO_BLOCK
from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class TarStream:
    """A place in a tar: at a header block, or in the data after one.

    Attributes:
        view: the chunk at hand.
        position: the place in ``view``.
        left: bytes of data from here to the padding before the next header.
        is_own: this process has made the tar: names, headers and sparse maps may have any size.
    """

    __slots__ = ("_chunks", "_end", "_padding", "is_own", "left", "position", "view")

    def __init__(self, chunks: Iterator[memoryview], *, is_own: bool = False) -> None:
        """Start at the first header of ``chunks``, each of whole blocks but for the last."""
        self.view = memoryview(b"")
        self.position = 0
        self.left = 0
        self.is_own = is_own
        self._chunks = chunks
        self._end = 0
        self._padding = 0

    def next_header(self) -> bool:
        """Go past what is left of the data to the next header; False when the archive ends.

        An archive may end without the blocks of zeros that should end it: GNU tar, Docker and umoci
        take it too. It may even lack what fills the last block of the last file's data, as that of
        ``umoci insert`` does, and as Go's reader takes it.

        Raises:
            ArchiveError: it ends where it must not.
        """
        if self.left or self._padding:
            self._skip_data()
        if self.position == self._end and not self._next_chunk():
            return False
        if self._end - self.position < BLOCK:
            raise ArchiveError("the archive ends in the middle of a header")
        if self.view[self.position] == 0 and self.block() == ZERO_BLOCK:
            self._check_end()
            return False
        return True

    def enter_data(self, size: int) -> None:
        """Go past the header at hand, which ``size`` bytes of data follow."""
        self.position += BLOCK
        self.left = size
        self._padding = -size % BLOCK

    def data(self, most: int) -> memoryview:
        """The next of the data: at least a byte where any is left, ``most`` bytes at most.

        It is gone with the next call.

        Raises:
            ArchiveError: the archive ends too early.
        """
        start = self.position
        if start == self._end and self.left:
            self._require_chunk()
            start = 0
        piece = self.view[start : start + min(most, self.left)]
        self.position = start + len(piece)
        self.left -= len(piece)
        return piece

    def all_data(self) -> bytes:
        """All that is left of the data."""
        data = bytes(self.data(self.left))
        while self.left:
            data += self.data(self.left)
        return data

    def block(self) -> memoryview:
        """The block at hand."""
        return self.view[self.position : self.position + BLOCK]

    def header_block(self) -> bytes:
        """The block at hand as a part of the headers that is not counted as data; go past it.

        Raises:
            ArchiveError: the archive ends too early.
        """
        if self.position == self._end:
            self._require_chunk()
        block = bytes(self.block())
        if len(block) < BLOCK:
            raise ArchiveError("the archive ends in the middle of a header")
        self.position += BLOCK
        return block

    def data_block(self) -> bytes:
        """The block at hand as a part of the data; go past it.

        Raises:
            ArchiveError: the archive or the data ends too early.
        """
        if self.left < BLOCK:
            raise ArchiveError("its data ends too early")
        block = self.header_block()
        self.left -= BLOCK
        return block

    def _skip_data(self) -> None:
        while self.left:
            self.data(self.left)
        # Chunks are of whole blocks, so padding is in the chunk that the data ends in; only the
        # last one may be cut short.
        self.position = min(self.position + self._padding, self._end)
        self._padding = 0

    def _check_end(self) -> None:
        """One block of zeros is at hand; another has to follow, or nothing, as in Go's reader."""
        self.position += BLOCK
        if (self.position < self._end or self._next_chunk()) and self.block() != ZERO_BLOCK:
            raise ArchiveError("the archive goes on after a single block of zeros")

    def _next_chunk(self) -> bool:
        self.view = next(self._chunks, memoryview(b""))
        self.position = 0
        self._end = len(self.view)
        return self._end > 0

    def _require_chunk(self) -> None:
        if not self._next_chunk():
            raise ArchiveError("the archive ends in the middle of an entry")
