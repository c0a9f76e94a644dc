"""Connections passed on from a socket that we listen on to one that a library made itself.

gRPC's server for Python takes no socket that is listening already, so neither one of systemd's nor
one of ours, which has the right mode from its first moment on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import socket


_LAST_WORDS = 5  # seconds


class Relay:
    """Accepts at one Unix socket, and joins each connection to a new one to another."""

    def __init__(self, listening: socket.socket, path: str) -> None:
        """From ``listening`` to the socket at ``path``, in a folder where only we may look."""
        self._listening = listening
        self._path = path
        self._ends: set[_End] = set()
        self._joining: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        # Not create_unix_server: from Python 3.13 on it unlinks the socket, were it systemd's.
        self._server = await loop.create_server(self._accepted, sock=self._listening)

    def stop_accepting(self) -> None:
        """Accept nothing more; what is connected stays so."""
        assert self._server is not None, "it has been started"
        self._server.close()

    async def close(self) -> None:
        """Accept nothing more, send what is waiting to be sent, and close all connections.

        Who does not take what is sent is not waited for.
        """
        self.stop_accepting()
        for task in self._joining:
            task.cancel()
        for end in list(self._ends):
            end.transport.close()
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._closed()
        except TimeoutError:
            for end in list(self._ends):
                end.transport.abort()
            await self._closed()

    async def _closed(self) -> None:
        while self._ends:
            await asyncio.wait([asyncio.ensure_future(end.closed.wait()) for end in self._ends])

    def _accepted(self) -> _End:
        client = _End(self._ends)
        joining = asyncio.get_running_loop().create_task(self._join(client))
        self._joining.add(joining)
        joining.add_done_callback(self._joining.discard)
        return client

    async def _join(self, client: _End) -> None:
        loop = asyncio.get_running_loop()
        server = _End(self._ends)
        await client.connected.wait()
        try:
            await loop.create_unix_connection(lambda: server, self._path)
        except OSError:  # the server has just stopped; to its clients it looks the same
            client.transport.abort()
            return
        for end, other in ((client, server), (server, client)):
            end.other = other
            other.transport.write(end.first)
            end.transport.resume_reading()
        for end, other in ((client, server), (server, client)):
            if end.closed.is_set():
                other.transport.close()


class _End(asyncio.Protocol):
    """One of the two connections: what comes in goes to the other, no faster than that takes it."""

    transport: asyncio.Transport
    other: _End | None = None

    def __init__(self, ends: set[_End]) -> None:
        self._ends = ends
        self.first = b""  # what came before the other one was there
        self.connected = asyncio.Event()
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._ends.add(self)
        self.connected.set()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
            return
        # Not in connection_made: Python 3.11.2 reads all the same after that.
        self.transport.pause_reading()
        self.first = data

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ends.discard(self)
        self.closed.set()
        if self.other is None:
            return
        if exc is None:
            self.other.transport.close()  # when it has sent what it has
        else:
            self.other.transport.abort()
