"""The plugin's life: its socket, served from start to stop."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from reflayer.plugins.docker import handlers
from reflayer.plugins.docker.home import Home
from reflayer.plugins.listening import BACKLOG, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from reflayer.plugins.metrics import Metrics
    from reflayer.plugins.work import Work

_LOOK = 0.02  # seconds between two looks at what still runs
_LAST_LOOK = 1.0  # seconds in which the request of a connection that was accepted comes
_NEVER = 10 * 365 * 86400.0  # seconds: what runs is finished


class DockerService:
    """The graph driver at its socket."""

    name = "docker"

    def __init__(
        self,
        work: Work,
        metrics: Metrics,
        *,
        socket: str,
        method: str = "auto",
        workers: int | None = None,
    ) -> None:
        """Not served yet.

        Args:
            work: the threads of the process.
            metrics: what counts the requests.
            socket: path of the Unix socket.
            method: how a layer is cloned, one of ``reflayer.driver.METHODS``.
            workers: threads that work on one clone; None for as many as there are processors.
        """
        self._socket = socket
        self._work = work
        self._home = Home(socket, method, workers)
        logging.getLogger("aiohttp.server").addFilter(_in_one_line)
        self._handlers = handlers.Handlers(self._home, work, metrics)
        self._runner = web.AppRunner(
            self._handlers.application(),
            access_log=None,  # metrics.operation logs
            handler_cancellation=True,
            read_bufsize=handlers.PIECE,
            shutdown_timeout=_NEVER,
        )
        self._site: web.SockSite | None = None
        metrics.clones(self.name, self._home.count)

    async def start(self) -> None:
        """Serve the socket, with the home that a process before this one had.

        Raises:
            ReflayerError: the socket cannot be listened on.
        """
        listening = listen(self._socket)
        try:
            await self._work.run(self._home.resume)
            await self._runner.setup()
            site = web.SockSite(self._runner, listening, backlog=BACKLOG)
            await site.start()
        except BaseException:
            listening.close()
            raise
        self._site = site
        self._closing = asyncio.create_task(self._close_idle())

    async def stop(self) -> None:
        """Accept nothing more; return when what runs has been answered."""
        if self._site is not None:
            await self._site.stop()
            self._closing.cancel()
            waited = 0.0
            # cleanup() reads no more of what a client is sending.
            while connections := self._connections():
                await asyncio.sleep(_LOOK)
                waited += _LOOK
                if waited > _LAST_LOOK:
                    self._close(connections)
        await self._runner.cleanup()

    async def _close_idle(self) -> None:
        """Close connections that send no request: each takes a descriptor from the others."""
        idle: set[web.RequestHandler] = set()
        while True:
            await asyncio.sleep(handlers.IDLE)
            self._close(idle)
            idle = self._connections()

    def _connections(self) -> set[web.RequestHandler]:
        return set() if self._runner.server is None else {*self._runner.server.connections}

    def _close(self, connections: Iterable[web.RequestHandler]) -> None:
        for connection in connections:
            if connection.transport not in self._handlers.begun:
                connection.force_close()


def _in_one_line(record: logging.LogRecord) -> bool:
    """Log what is no HTTP without aiohttp's traceback: it is a client's mistake."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        record.msg, record.args = "what a client sent is no HTTP: %s", (str(error)[:200],)
        record.exc_info = None
    return True
