"""What the services of one process share: their life, threads for their work, and the log.

They start, tell that they are ready, wait for a signal, and stop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TypeVar

from reflayer.errors import failing, printable
from reflayer.plugins import unix_socket
from reflayer.workers.pool import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import NoReturn

    from reflayer.progress import Progress

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SHORT = 32  # threads for short calls: they wait for the disk, not for each other
_STREAMS = 64  # threads for calls that wait for their client, a thread each
_LONGEST = 1000  # characters of a field in the log
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

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


class Cancelled(BaseException):
    """The client of this call has gone: the call undoes what it did and ends.

    Not an ``Exception``, so that no handler of errors takes it for a failure.
    """


class Work:
    """The threads of one process, for all its services."""

    def __init__(self, *, copies: int | None = None) -> None:
        """Let at most ``copies`` run at once; by default as many as there are processors."""
        self._short = ThreadPoolExecutor(_SHORT, "call")
        self._copies = ThreadPoolExecutor(copies or usable_cpus(), "copy")
        self._streams = ThreadPoolExecutor(_STREAMS, "stream")

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """``function(*args)``, a short call: stat, get, put, a removal that does not wait.

        It never waits for copies. Cancelled, this returns when the call has ended.
        """
        return await _finish(self._short, partial(function, *args), None)

    async def copy(self, function: Callable[[Progress], T]) -> T:
        """``function(progress)``, a clone: at most so many run at once, first come, first served.

        Cancelled, a copy that waits for its turn is forgotten. One that runs is stopped by its
        ``progress``, which raises ``Cancelled`` then; this returns when the call has ended, and so
        has undone its work. A function that records its result tells ``progress`` once more just
        before, since a snapshot tells none.
        """
        stop = threading.Event()
        return await _finish(self._copies, partial(function, _progress(stop)), stop)

    async def stream(self, function: Callable[[Progress], T]) -> T:
        """``function(progress)``, a call that reads from or writes to a client: apply, diff.

        Cancelled like a ``copy``, but not counted as one: a slow client holds no other up.
        """
        stop = threading.Event()
        return await _finish(self._streams, partial(function, _progress(stop)), stop)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        for threads in (self._short, self._copies, self._streams):
            threads.shutdown()


def _progress(stop: threading.Event) -> Progress:
    def progress(_stage: str, _done: int, _total: int | None) -> None:
        if stop.is_set():
            raise Cancelled

    return progress


async def _finish(
    threads: ThreadPoolExecutor, call: Callable[[], T], stop: threading.Event | None
) -> T:
    """The call's result. Cancelled, tell the call by ``stop`` and wait until it has ended."""
    running = threads.submit(call)
    result = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        running.cancel()  # does something only as long as it has not begun
        while not result.done():
            try:
                await asyncio.wait([result])
            except asyncio.CancelledError:
                continue  # told once more
        error = None if result.cancelled() else result.exception()
        if error is not None and not isinstance(error, Cancelled):
            logging.getLogger("reflayer.work").warning("a cancelled call failed: %s", error)
        raise


def log_to_stderr(form: str, level: str) -> None:
    """Let everything from ``level`` on be logged there; of libraries only warnings.

    Args:
        form: ``json``, or ``text``. A text has no time of its own where the journal takes it
            (``JOURNAL_STREAM`` of systemd.exec(5)), but the level in a way that the journal reads.
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_Json())
    else:
        handler.setFormatter(_Journal() if _is_journal(sys.stderr.fileno()) else _Text())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("reflayer").setLevel(level.upper())


class _Json(logging.Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    """Time, level, logger, message, ``field=value``; one line but for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname:7} {self.rest(record)}"

    def rest(self, record: logging.LogRecord) -> str:
        """What follows time and level."""
        fields = "".join(f" {name}={_value(value)}" for name, value in _fields(record).items())
        line = f"{record.name}: {printable(record.getMessage())}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Journal(_Text):
    """The same without a time, each line with its level as sd-daemon(3) has it."""

    def format(self, record: logging.LogRecord) -> str:
        level = _SYSLOG.get(record.levelno, 3)
        return "\n".join(f"<{level}>{line}" for line in self.rest(record).splitlines())


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", {})
    assert isinstance(fields, dict)
    return {name: _cut(value) for name, value in fields.items()}


def _cut(value: object) -> object:
    """The value, or its beginning where a client made it too long for a line."""
    text = str(value)
    return value if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _value(value: object) -> str:
    """A value as it is, or quoted where it could be misread."""
    text = str(value)
    is_plain = text and text.isprintable() and not set(text) & set(' "=\\')
    return text if is_plain else json.dumps(text)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_journal(fd: int) -> bool:
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
