"""HTTP/2 connections passed on from a socket that we listen on to one that a library made itself.

gRPC's server for Python takes no socket that is listening already, so neither one of systemd's nor
one of ours, which has the right mode from its first moment on. And at its stop it cancels what has
just come in; here its clients are sent away before that.
"""

from __future__ import annotations

import asyncio
from typing import cast

from reflayer.plugins.frames import Frames, goaway
from reflayer.plugins.listening import BACKLOG

TYPE_CHECKING = False
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
        self._sends_away = False

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        # Not create_unix_server: from Python 3.13 on it unlinks the socket, were it systemd's.
        self._server = await loop.create_server(
            self._accepted, sock=self._listening, backlog=BACKLOG
        )

    def send_away(self) -> None:
        """Accept nothing more, and tell clients to begin nothing more.

        What they have begun goes on. A client of gRPC closes its connection when it has all
        answers, and takes its next request to a new one.
        """
        self._stop_accepting()
        self._sends_away = True
        for end in self._ends:
            if isinstance(end, _Server):
                end.send_away()

    async def left(self, seconds: float) -> bool:
        """Whether all clients have gone, for which this waits for so long."""
        await asyncio.sleep(0)  # who is just being accepted is one of them
        try:
            async with asyncio.timeout(seconds):
                await self._closed()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Accept nothing more, send what is waiting to be sent, and close all connections.

        Who does not take what is sent is not waited for.
        """
        self._stop_accepting()
        for task in self._joining:
            task.cancel()
        for end in list(self._ends):
            end.transport.close()
        if not await self.left(_LAST_WORDS):
            for end in list(self._ends):
                end.transport.abort()
            await self._closed()

    def _stop_accepting(self) -> None:
        assert self._server is not None, "it has been started"
        self._server.close()

    async def _closed(self) -> None:
        while self._ends or self._joining:
            waiting = [asyncio.ensure_future(end.closed.wait()) for end in self._ends]
            try:
                await asyncio.wait([*waiting, *self._joining])
            finally:
                for one in waiting:
                    one.cancel()

    def _accepted(self) -> _End:
        client = _End(self._ends)
        joining = asyncio.get_running_loop().create_task(self._join(client))
        self._joining.add(joining)
        joining.add_done_callback(self._joining.discard)
        return client

    async def _join(self, client: _End) -> None:
        loop = asyncio.get_running_loop()
        server = _Server(self._ends)
        await client.connected.wait()
        try:
            await loop.create_unix_connection(lambda: server, self._path)
        except OSError:  # the server has just stopped; to its clients it looks the same
            client.transport.abort()
            return
        for end, other in ((client, server), (server, client)):
            end.other = other
            end.pass_on(other, end.first)
            end.transport.resume_reading()
        if self._sends_away:
            server.send_away()
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

    def pass_on(self, other: _End, data: bytes) -> None:
        """Send to ``other`` what came in here."""
        other.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._ends.add(self)
        self.connected.set()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.pass_on(self.other, data)
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


class _Server(_End):
    """The connection to the server, into whose frames ours is put."""

    def __init__(self, ends: set[_End]) -> None:
        super().__init__(ends)
        self._frames = Frames()
        self._word = b""  # what waits to be said between two frames

    def send_away(self) -> None:
        """Tell the client to begin nothing more on this connection."""
        if self.other is None:
            return  # told when it is joined
        if self._frames.is_between:
            self.other.transport.write(goaway())
        else:
            self._word = goaway()

    def pass_on(self, other: _End, data: bytes) -> None:
        """Send to ``other`` what came in here, and what waits to be said where it may be."""
        place = self._frames.follow(data)
        if self._word and place is not None:
            data = data[:place] + self._word + data[place:]
            self._word = b""
        other.transport.write(data)
