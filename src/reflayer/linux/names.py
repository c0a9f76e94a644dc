"""The part in C: one thing done to many names of an open folder, without the interpreter's lock.

And one thing that is no call: the headers of an ordinary entry of a tar are read.

``native`` is None where it was not compiled, or is not wanted: ``REFLAYER_PURE=1``. Its
callers can do all of its work in Python, which is the definition, only slower.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

native: Any = None
try:
    if os.environ.get("REFLAYER_PURE") != "1":
        import reflayer.linux._names as _names

        native = _names
except ImportError:  # there was no compiler at the install
    pass

_HEAD = struct.Struct("=QqHB")  # of a struct linux_dirent64, whose name comes next
_BUFFER = 16384  # bytes: names.h


def listed(names: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """Some types and names as a listing has them (getdents64(2)), to be given as what is left.

    In pieces, each of which a call takes; it has come to the end when nothing of it is left.
    """
    piece: list[bytes] = []
    room = _BUFFER
    for kind, name in names:
        size = (_HEAD.size + len(name) + 8) // 8 * 8
        if size > room:
            yield b"".join(piece)
            piece, room = [], _BUFFER
        piece.append(_HEAD.pack(1, 0, size, kind) + name.ljust(size - _HEAD.size, b"\0"))
        room -= size
    yield b"".join(piece)


def names_listed(piece: bytes) -> Iterator[bytes]:
    """The names in such a piece."""
    at = 0
    while at < len(piece):
        size = _HEAD.unpack_from(piece, at)[2]
        yield piece[at + _HEAD.size : at + size].rstrip(b"\0")
        at += size
