"""Layers on their way between the socket and the driver, a piece at a time."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

from reflayer.errors import ArchiveError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from aiohttp import StreamReader

PIECE = 1 << 20
"""Bytes of a layer that are read at once."""


class Body(io.RawIOBase):
    """A request's body as a file for a thread; no more of it is received than that has room for."""

    def __init__(self, content: StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        """Read ``content``, which ``loop`` receives."""
        self._content = content
        self._loop = loop
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Wait for some bytes; 0 at the end.

        Raises:
            ArchiveError: the client has gone before the end, or what it sends is no HTTP.
        """
        if not self._rest:
            reading = asyncio.run_coroutine_threadsafe(self._content.readany(), self._loop)
            try:
                self._rest = memoryview(reading.result())
            except Exception as error:  # of many kinds: aiohttp hands on what ended the connection
                raise ArchiveError("the client broke off before its end") from error
        view = memoryview(buffer).cast("B")
        piece = self._rest[: len(view)]
        view[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)
