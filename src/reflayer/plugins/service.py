"""The life of the daemon: start, tell that it is ready, wait for a signal, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import contextmanager
from typing import Protocol

from reflayer.errors import failing
from reflayer.plugins import unix_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_log = logging.getLogger("reflayer.service")


class Service(Protocol):
    """One protocol on its socket."""

    @property
    def name(self) -> str:
        """``docker`` or ``containerd``."""

    async def start(self) -> None:
        """When it returns, the socket is served.

        Raises:
            ReflayerError: it cannot start. Nothing of it is left.
        """

    async def stop(self) -> None:
        """Accept nothing new; return when the requests that run have been answered."""


async def run(services: Sequence[Service], *, at_once: Callable[[int], NoReturn]) -> None:
    """Start ``services`` and return when they have stopped, after SIGTERM, SIGINT or SIGHUP.

    Requests that run are finished first. A second signal does not wait for them.

    Args:
        services: what to serve.
        at_once: called with the number of the second signal, to end the process.

    Raises:
        ReflayerError: one cannot start. Those that had started are stopped.
    """
    names = ", ".join(service.name for service in services)
    started: list[Service] = []
    with _signals(at_once) as asked:
        try:
            for service in services:
                await service.start()
                started.append(service)
            for path in unix_socket.unused():
                _log.warning("systemd listens at %s, and nothing serves it", path)
            _log.info("ready: %s", names)
            sd_notify("READY=1", f"STATUS=serving {names}")
            await asked.wait()
            _log.info("stopping: what runs is finished first")
            sd_notify("STOPPING=1", "STATUS=finishing what runs")
        finally:
            await _stop(started)
        _log.info("stopped")


async def _stop(services: Sequence[Service]) -> None:
    ends = await asyncio.gather(*(one.stop() for one in services), return_exceptions=True)
    for end in ends:
        if end is not None:
            raise end


@contextmanager
def _signals(at_once: Callable[[int], NoReturn]) -> Iterator[asyncio.Event]:
    """An event that the first signal sets; the next one calls ``at_once``."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def hear(number: int) -> None:
        if asked.is_set():
            at_once(number)
        asked.set()

    # nohup(1) lets SIGHUP be ignored.
    heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, hear, number)
    try:
        yield asked
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


def sd_notify(*lines: str) -> None:
    """Tell the service manager ``lines`` such as ``READY=1``, where one has started us.

    Raises:
        OperationError: the socket that is named there takes no messages.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # The abstract ones begin with a zero byte, which cannot be in a variable.
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, failing(path, "notify"):
        sender.connect(address)
        sender.send("\n".join(lines).encode())
