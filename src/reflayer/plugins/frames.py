"""The frames of an HTTP/2 connection: the gaps between them, and the one that says good-bye.

RFC 9113, sections 4.1 (frame format), 6.2, 6.8 (GOAWAY) and 6.10 (CONTINUATION).
"""

from __future__ import annotations

_HEADER = 9  # bytes: length (3), type, flags, stream (4)
_HEADERS, _PUSH_PROMISE, _CONTINUATION = 1, 5, 9
_END_HEADERS = 0x4
_GOAWAY = 7
_ALL_STREAMS = 0x7FFFFFFF


def goaway() -> bytes:
    """A frame GOAWAY: begin nothing more on this connection; all that was begun is answered."""
    payload = _ALL_STREAMS.to_bytes(4) + bytes(4)  # the error code NO_ERROR
    return len(payload).to_bytes(3) + bytes((_GOAWAY, 0)) + bytes(4) + payload


class Frames:
    """Follows what a server sends on one connection, from its first byte on.

    Attributes:
        is_between: whether another frame may come now. Not before the first one, which is SETTINGS.
    """

    def __init__(self) -> None:
        self.is_between = False
        self._header = b""
        self._left = 0  # bytes of the payload
        self._is_headers_end = True  # else CONTINUATION has to follow

    def follow(self, data: bytes) -> int | None:
        """Take what comes next; the last place in it where another frame may stand, if any."""
        place = None
        at = 0
        while at < len(data):
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
            else:
                taken = self._begin(data[at : at + _HEADER - len(self._header)])
            at += taken
            if not self._left and not self._header and self._is_headers_end:
                place = at
        self.is_between = place == len(data)
        return place

    def _begin(self, part: bytes) -> int:
        self._header += part
        if len(self._header) == _HEADER:
            kind, flags = self._header[3:5]
            self._left = int.from_bytes(self._header[:3])
            if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
                self._is_headers_end = bool(flags & _END_HEADERS)
            self._header = b""
        return len(part)
