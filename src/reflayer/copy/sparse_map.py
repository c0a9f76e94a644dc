"""The map before a sparse file's data in a tar (GNU tar manual, Sparse Formats: PAX 1.0)."""

from __future__ import annotations

_BLOCK = 512  # bytes of a tar's blocks


def sparse_map(extents: list[tuple[int, int]], size: int) -> bytes:
    """The map of a file of ``size`` bytes that has data only in ``extents``, in whole blocks.

    Args:
        extents: start and end of each, in bytes, as ``data_extents`` tells them.
        size: bytes, holes included.
    """
    if not extents or extents[-1][1] != size:
        extents = [*extents, (size, size)]  # GNU tar takes the end of the last one for the file's
    numbers = [len(extents)]
    for start, end in extents:
        numbers += [start, end - start]
    lines = b"".join(b"%d\n" % number for number in numbers)
    return lines + bytes(-len(lines) % _BLOCK)
