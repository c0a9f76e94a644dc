"""What the services of one process share: start and stop, threads, and the log of requests."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from reflayer.errors import LayerError, failing, printable
from reflayer.plugins import unix_socket
from reflayer.workers.pool import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import NoReturn

    from reflayer.copy import CopyReport
    from reflayer.driver import Driver
    from reflayer.linux.project_quota import ProjectUse
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
        """When it returns, the socket is served; when it raises, nothing of it is left."""

    async def stop(self) -> None:
        """Accept nothing new; return when the requests that run have been answered."""


async def run(services: Sequence[Service], *, at_once: Callable[[int], NoReturn]) -> None:
    """Start ``services`` and return when they have stopped, after SIGTERM, SIGINT or SIGHUP.

    Requests that run are finished first. A second signal does not wait for them: ``at_once`` gets
    its number, to end the process. Where one cannot start, those that had started are stopped.
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
            ends = await asyncio.gather(*(one.stop() for one in started), return_exceptions=True)
            for end in filter(None, ends):
                raise end
        _log.info("stopped")


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
    """Tell the service manager ``lines`` such as ``READY=1``, where one has started us."""
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
        """``function(*args)``, a short call, which never waits for copies: stat, get, put.

        Cancelled, this returns when the call has ended.
        """
        return await _finish(self._short, lambda _: function(*args))

    async def copy(self, function: Callable[[Progress], T]) -> T:
        """``function(progress)``, a clone: at most so many run at once, first come, first served.

        Cancelled, a copy that waits for its turn is forgotten. One that runs is stopped by its
        ``progress``, which raises ``Cancelled`` then; this returns when the call has ended, and so
        has undone its work. A function that records its result tells ``progress`` once more just
        before, since a snapshot tells none.
        """
        return await _finish(self._copies, function)

    async def stream(self, function: Callable[[Progress], T]) -> T:
        """``function(progress)``, a call that reads from or writes to a client: apply, diff.

        Cancelled like a ``copy``, but not counted as one: a slow client holds no other up.
        """
        return await _finish(self._streams, function)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        for threads in (self._short, self._copies, self._streams):
            threads.shutdown()


async def _finish(threads: ThreadPoolExecutor, call: Callable[[Progress], T]) -> T:
    """The call's result. Cancelled, tell the call by its progress and wait until it has ended."""
    stopped = False

    def progress(_stage: str, _done: int, _total: int | None) -> None:
        if stopped:
            raise Cancelled

    running = threads.submit(call, progress)
    result = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        stopped = True
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


class Operation:
    """One request that is being answered.

    Attributes:
        outcome: None until it is known: ``ok``; ``refused``, an answer that the protocol has a word
            for, such as a layer that is not there; ``failed``; ``cancelled``, its client has gone.
            A service sets it itself where it raises nothing, or what says something else.
        error: the text of the failure for the log, if any.
    """

    outcome: str | None = None
    error: str | None = None


class Metrics:
    """Logs each request as it ends; counts nothing: ``reflayer.plugins.prometheus`` does."""

    @contextmanager
    def operation(self, service: str, name: str, **fields: object) -> Iterator[Operation]:
        """The block answers one request: it is timed, counted and logged.

        Args:
            service: ``docker`` or ``containerd``; the logger is ``reflayer.SERVICE``.
            name: the protocol's word for the request: ``Create``, ``Prepare``.
            fields: what the log tells besides: ``id``, ``parent``, ``key``, ``namespace``.

        An exception is passed on: ``LayerError`` counts as ``refused``, cancellation as
        ``cancelled``, any other as ``failed``, which alone is logged as an error.
        """
        operation = Operation()
        started = time.monotonic()
        try:
            yield operation
        except BaseException as error:
            operation.outcome = operation.outcome or _outcome(error)
            operation.error = operation.error or str(error) or type(error).__name__
            raise
        finally:
            outcome = operation.outcome or "ok"
            seconds = time.monotonic() - started
            self._count(service, name, outcome, seconds)
            logger = logging.getLogger(f"reflayer.{service}")
            level = logging.ERROR if outcome == "failed" else logging.DEBUG
            if logger.isEnabledFor(level):
                told = {"operation": name, **fields, "outcome": outcome}
                told["seconds"] = round(seconds, 6)
                if operation.error is not None:
                    told["error"] = operation.error
                logger.log(level, "%s %s", name, outcome, extra={"fields": told})

    def copied(self, report: CopyReport | None) -> None:
        """Count what a clone copied; None is none."""

    def layers(self, service: str, count: Callable[[], int], spares: Callable[[], int]) -> None:
        """Let these, called from another thread, tell how many layers and spares a service has."""

    def limits(self, uses: Callable[[], Iterable[tuple[str, ProjectUse]]]) -> None:
        """Let ``uses``, called from another thread, tell what snapshots take of their sizes."""

    def _count(self, service: str, name: str, outcome: str, seconds: float) -> None:
        pass


def ready_spares(driver: Driver) -> int:
    """How many there are, of all layers."""
    return sum(one.ready for one in driver.spares())


def _outcome(error: BaseException) -> str:
    if isinstance(error, (asyncio.CancelledError, Cancelled)):
        return "cancelled"
    return "refused" if isinstance(error, LayerError) else "failed"


def log_to_stderr(form: str, level: str) -> None:
    """Let everything from ``level`` on be logged there, as ``json`` or ``text``.

    Of libraries only warnings are. A text has no time of its own where the journal takes it
    (``JOURNAL_STREAM`` of systemd.exec(5)), but the level in a way that the journal reads.
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
