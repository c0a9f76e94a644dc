"""Where the data of a sparse file lies: GNU tar's old format and its PAX formats 0.0 to 1.0.

GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import struct
from array import array

from reflayer.archive.pax import decimal
from reflayer.archive.tar_header import BLOCK, number
from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_SPANS = 1 << 20  # 16 MiB of map
_SPAN = struct.Struct("12s12s")
_IN_HEADER = slice(386, 482)
_HEADER_IS_EXTENDED = 482
_REAL_SIZE = slice(483, 495)
_IN_EXTENSION = slice(0, 504)
_EXTENSION_IS_EXTENDED = 504


class SparseMap:
    """The spans of a file that hold data, in order; all else of it are holes.

    Attributes:
        size: the file's size in bytes, holes included.
        stored: bytes of data in all spans.
    """

    __slots__ = ("_lengths", "_offsets", "size", "stored")

    def __init__(
        self, spans: Iterator[tuple[int, int]], size: int, *, is_own: bool = False
    ) -> None:
        """Take (offset, length) of each span, at most 1,048,576 of them where it is not our own.

        Raises:
            ArchiveError: spans are out of order, overlap, or exceed the file.
        """
        if size < 0:
            raise ArchiveError(f"its real size ({size}) is out of range")
        self.size = size
        self.stored = 0
        self._offsets = array("q")
        self._lengths = array("q")
        end = 0
        for offset, length in spans:
            if offset < end or length < 0 or offset + length > size:
                raise ArchiveError("its sparse map is out of order or exceeds the file")
            if len(self._offsets) == _MOST_SPANS and not is_own:
                raise ArchiveError(f"its sparse map has more than {_MOST_SPANS} spans")
            end = offset + length
            self.stored += length
            self._offsets.append(offset)
            self._lengths.append(length)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each span."""
        return zip(self._offsets, self._lengths, strict=True)


def old_gnu_map(header: bytes, next_block: Callable[[], bytes]) -> SparseMap:
    """The map of an entry of type ``S``, from its header and the extension blocks after it.

    Raises:
        ArchiveError: the map is malformed.
    """
    size = number(header[_REAL_SIZE], "real size")
    return SparseMap(_old_gnu_spans(header, next_block), size)


def _old_gnu_spans(header: bytes, next_block: Callable[[], bytes]) -> Iterator[tuple[int, int]]:
    fields, is_extended = header[_IN_HEADER], header[_HEADER_IS_EXTENDED]
    while True:
        for offset, length in _SPAN.iter_unpack(fields):
            if not offset[0] and not length[0]:
                break
            yield number(offset, "sparse map"), number(length, "sparse map")
        if not is_extended:
            return
        block = next_block()
        fields, is_extended = block[_IN_EXTENSION], block[_EXTENSION_IS_EXTENDED]


def pax_map(value: bytes, size: int) -> SparseMap:
    """The map of formats 0.0 and 0.1: offsets and lengths in turn, with commas between.

    Raises:
        ArchiveError: the map is malformed.
    """
    numbers = value.split(b",") if value else []
    if len(numbers) % 2:
        raise ArchiveError("its sparse map is malformed")
    each = (decimal(item, "sparse map") for item in numbers)
    return SparseMap(zip(each, each, strict=True), size)


def pax_map_in_data(
    next_block: Callable[[], bytes], size: int, *, is_own: bool = False
) -> SparseMap:
    """The map of format 1.0: at the start of the data, a number a line, in whole blocks.

    Raises:
        ArchiveError: the map is malformed, or longer than the data.
    """
    numbers = _numbers(next_block)
    count = next(numbers)
    spans = ((next(numbers), next(numbers)) for _ in range(count))
    return SparseMap(spans, size, is_own=is_own)


def _numbers(next_block: Callable[[], bytes]) -> Iterator[int]:
    rest = b""
    while len(rest) < BLOCK:
        *whole, rest = (rest + next_block()).split(b"\n")
        for line in whole:
            yield decimal(line, "sparse map")
    raise ArchiveError("its sparse map is malformed")
