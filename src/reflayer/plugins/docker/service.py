"""The plugin's life: its socket, served from start to stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from reflayer.plugins.docker.handlers import Handlers
from reflayer.plugins.docker.home import Home
from reflayer.plugins.docker.streams import PIECE
from reflayer.plugins.listening import listen

if TYPE_CHECKING:
    from reflayer.plugins.metrics import Metrics
    from reflayer.plugins.options import DockerOptions
    from reflayer.plugins.work import Work

_IDLE = 60.0  # seconds that a connection may take to send its request
_LOOK = 0.02  # seconds between two looks at what still runs
_NEVER = 10 * 365 * 86400.0  # seconds: what runs is finished


class DockerService:
    """The graph driver at its socket."""

    name = "docker"

    def __init__(self, options: DockerOptions, work: Work, metrics: Metrics) -> None:
        """Not served yet."""
        self._socket = options.socket
        self._work = work
        self._home = Home(options, work.pool)
        self._runner = web.AppRunner(
            Handlers(self._home, work, metrics).application(),
            access_log=None,  # metrics.operation logs
            handler_cancellation=True,
            keepalive_timeout=_IDLE,
            read_bufsize=PIECE,
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
            site = web.SockSite(self._runner, listening)
            await site.start()
        except BaseException:
            listening.close()
            raise
        self._site = site

    async def stop(self) -> None:
        """Accept nothing more; return when what runs has been answered."""
        if self._site is not None:
            await self._site.stop()
            # cleanup() reads no more of what a client is sending.
            while self._runner.server is not None and self._runner.server.connections:
                await asyncio.sleep(_LOOK)
        await self._runner.cleanup()
