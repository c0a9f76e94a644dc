"""The gRPC server on its socket, with the health service beside the snapshots': start and stop.

grpclib's own stop cancels what runs and tells its clients nothing. Here they are sent away first,
by the frame for that (GOAWAY, RFC 9113, section 6.8): a client takes its next request to a new
connection, which systemd's socket keeps for the next process, and what it has begun is answered.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import cast

from grpclib.health.check import ServiceStatus
from grpclib.health.service import OVERALL, Health
from grpclib.protocol import H2Protocol
from grpclib.server import Server
from h2.events import UnknownFrameReceived
from hyperframe.frame import GoAwayFrame

from reflayer.driver import Driver
from reflayer.errors import ServiceError, failing
from reflayer.linux.mkdir import make_folders
from reflayer.plugins.containerd.records import Records
from reflayer.plugins.containerd.servicer import Servicer
from reflayer.plugins.containerd.snapshotter import Snapshotter
from reflayer.plugins.service import ready_spares
from reflayer.plugins.unix_socket import BACKLOG, listen
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection

    from grpclib._typing import IServable

    from reflayer.plugins.service import Metrics, Work

_HANDSHAKE = 30.0  # seconds; a client that is silent for so long keeps no descriptor
_LAST_LOOK = 2.0  # seconds in which clients that have all answers go; those watching health stay
_LAST_WORDS = 5.0  # seconds for clients to take what is sent to them
_ALL_STREAMS = (1 << 31) - 1


class ContainerdService:
    """The snapshotter of one home, on its socket."""

    name = "containerd"

    def __init__(
        self,
        work: Work,
        metrics: Metrics,
        open_driver: Callable[..., Driver] = Driver,
        *,
        socket: str,
        home: str,
    ) -> None:
        """Nothing is touched before ``start``; then ``open_driver`` opens ``home``."""
        self._work = work
        self._metrics = metrics
        self._socket = socket
        self._home = home
        self._open_driver = open_driver
        self._open = AsyncExitStack()  # what is to be closed

    async def start(self) -> None:
        async with AsyncExitStack() as stack:
            snapshotter = await self._work.run(self._opened, stack)
            listening = stack.enter_context(listen(self._socket))
            self._servicer = Servicer(snapshotter, self._metrics)
            stack.push_async_callback(self._servicer.idle.wait)
            self._health = ServiceStatus()
            self._health.set(True)
            checks = [self._health]
            health = Health({self._servicer: checks, OVERALL: checks})
            self._connections = Connections([self._servicer, health])
            await self._connections.accept(listening)
            stack.push_async_callback(self._connections.close)
            self._open = stack.pop_all()

    async def stop(self) -> None:
        async with self._open:
            self._health.set(False)
            self._connections.send_away()
            idle = self._servicer.idle
            while not await self._connections.left(_LAST_LOOK) and not idle.is_set():
                await idle.wait()

    def _opened(self, stack: AsyncExitStack) -> Snapshotter:
        home = self._home
        with failing(home, "mkdir"):
            make_folders(home, 0o700)
        if not stack.enter_context(locked(f"{home}/lock", wait=False)):
            reason = "another process serves it: stop it, or give another --home"
            raise ServiceError(f"{home}: {reason}")
        driver = self._open_driver(home)
        records = Records(f"{home}/snapshots.db")
        stack.callback(records.close)
        snapshotter = Snapshotter(driver, records, self._work, self._metrics)
        stack.callback(snapshotter.close)
        snapshotter.recover()
        self._metrics.layers(self.name, records.count, partial(ready_spares, driver))
        self._metrics.limits(snapshotter.limits)
        return snapshotter


class Connections:
    """The connections of clients to ``services``, each of them from its beginning to its end."""

    def __init__(self, services: Collection[IServable]) -> None:
        self._server = Server(services)
        self._open: set[_Connection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._sends_away = False

    async def accept(self, listening: socket.socket) -> None:
        """Begin to accept at a socket, which is closed when that ends."""
        loop = asyncio.get_running_loop()
        # Not create_unix_server: from Python 3.13 on it unlinks the socket, were it systemd's.
        self._accepting = await loop.create_server(
            lambda: _Connection(self._server._protocol_factory(), self),
            sock=listening,
            backlog=BACKLOG,
        )

    def send_away(self) -> None:
        """Accept nothing more, and tell clients to begin nothing more; what they have goes on.

        A client of gRPC closes its connection when it has all answers.
        """
        self._accepting.close()
        self._sends_away = True
        for connection in self._open:
            connection.send_away()

    async def left(self, seconds: float) -> bool:
        """Whether all clients have gone, for which this waits for so long."""
        await asyncio.sleep(0)  # for a client that is just being accepted
        try:
            async with asyncio.timeout(seconds):
                await self._all_closed.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Send what is waiting to be sent, and close all; who takes nothing is cut off."""
        self._accepting.close()
        for connection in list(self._open):
            connection.transport.close()
        if not await self.left(_LAST_WORDS):
            for connection in list(self._open):
                connection.transport.abort()
            await self._all_closed.wait()

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)
        self._all_closed.clear()
        if self._sends_away:
            connection.send_away()

    def closed(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()


class _Connection(H2Protocol):
    """One connection of grpclib's, which can be sent away."""

    transport: asyncio.Transport

    def __init__(self, made: H2Protocol, all_of_them: Connections) -> None:
        super().__init__(made.handler, made.config, made.h2_config)
        self._all = all_of_them

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", transport)
        self._patience = asyncio.get_running_loop().call_later(_HANDSHAKE, self.transport.abort)
        # grpclib would end the connection, but RFC 9113 says in section 5.5 that it is ignored.
        self.processor.processors[UnknownFrameReceived] = lambda _: None
        self._all.opened(self)

    def data_received(self, data: bytes) -> None:
        self._patience.cancel()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)
        self._all.closed(self)

    def send_away(self) -> None:
        # h2 can send this frame, too, but takes a connection for closed after that, and refuses to
        # send the answers that are still due. So it does not learn of it. The frame cannot come
        # into the middle of another: grpclib gives whole ones to the transport.
        self.transport.write(GoAwayFrame(last_stream_id=_ALL_STREAMS).serialize())
