"""Layers on their way between the socket and the driver, a piece at a time."""

from __future__ import annotations

import asyncio
import io

from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aiohttp import StreamReader

PIECE = 1 << 20
"""Bytes of a layer that are read at once."""


class Body(io.RawIOBase):
    """A request's body as a file for a thread; no more of it is received than that has room for."""

    def __init__(self, content: StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        """Read ``content``, which ``loop`` receives."""
        self._content = content
        self._loop = loop

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Wait for some bytes, ``size`` at most; none at the end. They are not copied once more.

        Raises:
            ArchiveError: the client has gone before the end, or what it sends is no HTTP.
        """
        reading = asyncio.run_coroutine_threadsafe(self._content.read(size), self._loop)
        try:
            return reading.result()
        except Exception as error:  # of many kinds: aiohttp hands on what ended the connection
            raise ArchiveError("the client broke off before its end") from error
