"""Driver calls, which block, in threads beside the event loop; cancelled, they leave nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from reflayer.workers.pool import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.progress import Progress

T = TypeVar("T")

_SHORT = 32  # threads for short calls: they wait for the disk, not for each other
_STREAMS = 64  # threads for calls that wait for their client, a thread each

_log = logging.getLogger("reflayer.work")


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
            _log.warning("a cancelled call failed: %s", error)
        raise
