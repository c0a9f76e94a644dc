"""A tiny service of its own for the tests, and the program that serves it.

It answers lines: ``ping`` with ``pong``; ``hold FILE`` with ``done`` when that file is gone.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from reflayer.errors import ReflayerError
from reflayer.plugins.service import Metrics, Work, log_to_stderr, run
from reflayer.plugins.unix_socket import listen


class Lines:
    """The service."""

    name = "lines"

    def __init__(self, socket: str, work: Work, metrics: Metrics) -> None:
        self._socket = socket
        self._work = work
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Serve."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connected, sock=listen(self._socket))

    async def stop(self) -> None:
        """Finish what runs."""
        self._server.close()
        if self._running:
            await asyncio.wait(self._running)
        for talk in self._talks:
            talk.cancel()
        if self._talks:
            await asyncio.wait(self._talks)

    def _connected(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            talk = asyncio.ensure_future(self._talk(reader, writer))
            self._talks.add(talk)
            talk.add_done_callback(self._talks.discard)

        return asyncio.StreamReaderProtocol(reader, begin)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            task = asyncio.ensure_future(self._answer(line.decode().split(), writer))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            await asyncio.wait([task])
        writer.close()

    async def _answer(self, words: list[str], writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._work_on(*words)
        except ReflayerError as error:
            answer = str(error)
        writer.write(answer.encode() + b"\n")
        await writer.drain()

    async def _work_on(self, name: str, *values: str) -> str:
        with self._metrics.operation("lines", name, values=values):
            if name == "ping":
                return await self._work.run(lambda: "pong")
            return await self._work.stream(lambda _: _hold(values[0]))


def _hold(path: str) -> str:
    with open(path, "w") as file:
        file.write("running")
    while os.path.exists(path):
        time.sleep(0.01)
    return "done"


async def _main(socket: str) -> None:
    work = Work()
    try:
        service = Lines(socket, work, Metrics())
        await run([service], at_once=lambda number: os._exit(128 + number))
    finally:
        work.close()


if __name__ == "__main__":
    log_to_stderr("text", "debug")
    asyncio.run(_main(sys.argv[1]))
