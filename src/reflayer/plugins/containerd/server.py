"""The gRPC server on its socket, with the health service beside the snapshots': start and stop."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from reflayer.driver import Driver
from reflayer.errors import OperationError, ServiceError
from reflayer.linux.mkdir import make_folders
from reflayer.plugins.containerd.folders import agree
from reflayer.plugins.containerd.protocol.snapshots_pb2_grpc import add_SnapshotsServicer_to_server
from reflayer.plugins.containerd.records import Records
from reflayer.plugins.containerd.servicer import Servicer
from reflayer.plugins.containerd.snapshotter import Snapshotter
from reflayer.plugins.listening import listen
from reflayer.plugins.relay import Relay
from reflayer.store.locks import locked_at_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.plugins.metrics import Metrics
    from reflayer.plugins.options import ContainerdOptions
    from reflayer.plugins.work import Work

SERVICE = "containerd.services.snapshots.v1.Snapshots"
"""The service's full name, by which its health is asked for, too."""

_LARGEST = 16 << 20  # bytes of a message, as containerd's own clients and servers take it
_LAST_LOOK = 2.0  # seconds in which clients with all their answers go; who watches our health stays
_OPTIONS = (
    ("grpc.max_receive_message_length", _LARGEST),
    ("grpc.max_send_message_length", _LARGEST),
    ("grpc.server_handshake_timeout_ms", 30_000),  # who says nothing keeps no descriptor
)


class ContainerdService:
    """The snapshotter of one home, on its socket."""

    name = "containerd"

    def __init__(self, options: ContainerdOptions, work: Work, metrics: Metrics) -> None:
        """Nothing is touched before ``start``."""
        self._options = options
        self._work = work
        self._metrics = metrics
        self._open = AsyncExitStack()  # what is to be closed

    async def start(self) -> None:
        """When it returns, the socket is served.

        Raises:
            ReflayerError: it cannot start. Nothing of it is left.
        """
        async with AsyncExitStack() as stack:
            snapshotter = await self._work.run(self._opened, stack)
            listening = stack.enter_context(listen(self._options.socket))
            self._servicer = Servicer(snapshotter, self._metrics)
            stack.push_async_callback(self._servicer.idle)
            self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
            server = grpc.aio.server(options=_OPTIONS)
            stack.push_async_callback(server.stop, None)
            add_SnapshotsServicer_to_server(self._servicer, server)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            inner = _inner_socket(self._options.home, stack)
            try:
                server.add_insecure_port(f"unix:{inner}")
            except RuntimeError as error:
                raise ServiceError(f"{self._options.home}: no socket can be made there") from error
            await server.start()
            await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
            self._relay = Relay(listening, inner)
            await self._relay.start()
            stack.push_async_callback(self._relay.close)
            self._open = stack.pop_all()

    async def stop(self) -> None:
        """Accept nothing new; return when the requests that run have been answered."""
        async with self._open:
            await self._health.enter_graceful_shutdown()
            self._relay.send_away()
            while not await self._relay.left(_LAST_LOOK) and not self._servicer.is_idle:
                await self._servicer.idle()

    def _opened(self, stack: AsyncExitStack) -> Snapshotter:
        home = self._options.home
        try:
            make_folders(home, 0o700)
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(home), "mkdir") from error
        if not stack.enter_context(locked_at_once(f"{home}/lock")):
            raise ServiceError(
                f"{home}: another process serves it: stop it, or give another --home"
            )
        driver = Driver(
            home,
            method=self._options.method,
            workers=self._options.workers,
        )
        records = Records(f"{home}/snapshots.db")
        stack.callback(records.close)
        agree(driver, records)
        self._metrics.clones(self.name, records.count)
        return Snapshotter(driver, records, self._work, self._metrics)


def _inner_socket(home: str, stack: AsyncExitStack) -> str:
    """The path of the socket that gRPC makes, in our home, where only root gets in.

    By a descriptor: the home's own path may be too long for a socket (unix(7)).
    """
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, folder)
    return f"/proc/self/fd/{folder}/grpc.sock"
