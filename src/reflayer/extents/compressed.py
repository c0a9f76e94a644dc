"""Compressed extents by what they take on disk, where FIEMAP has what they hold."""

from __future__ import annotations

from bisect import bisect_left

from reflayer.linux import fiemap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Extent = tuple[int, int, int, int]
    """Place in the file, place on the file system, length, flags: as ``fiemap.extents`` has it."""

    Piece = tuple[int, int, int]
    """Place in the file, place and length on the file system: of ``compressed_extents``."""


def on_disk(found: Sequence[Extent], compressed: Sequence[Piece]) -> Iterator[Extent]:
    """``found`` with its compressed extents as in ``compressed``.

    Of one that a file has several parts of, all but the first have no length.
    """
    met: set[int] = set()
    for extent in found:
        logical, _, length, flags = extent
        if not flags & fiemap.ENCODED:
            yield extent
            continue
        # FIEMAP joins two that happen to lie as far apart on the disk as in the file.
        first = bisect_left(compressed, (logical,))
        last = bisect_left(compressed, (logical + length,))
        for offset, place, size in compressed[first:last]:
            yield offset, place, 0 if place in met else size, flags
            met.add(place)
