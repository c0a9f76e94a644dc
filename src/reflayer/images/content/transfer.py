"""Blobs that come or go, several at once; one that fails ends them all."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reflayer.images.model.descriptor import Descriptor
    from reflayer.progress import Progress

    Told = Callable[[int], None]

_WORKERS = 4


class StoppedError(Exception):
    """Another blob failed, or the caller gave up: there is no need to go on."""


class Transfer:
    """Blobs on their way, four at once.

    Attributes:
        changed: held, and notified, while what ``wait`` looks at is changed.
    """

    # Threads: hashing and waiting let go of the interpreter's lock. The obvious ThreadPoolExecutor
    # loses one: a signal while it starts a thread keeps it from knowing of that thread, for which
    # it does not wait then. Here a thread counts itself, and none begins anything after ``_stop``.

    def __init__(
        self,
        stage: str,
        blobs: Iterable[Descriptor],
        work: Callable[[Descriptor, Told], None],
        progress: Progress | None,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing goes on yet.

        Args:
            stage: what ``progress`` is told of, in bytes, by one thread at a time.
            blobs: one of a digest.
            work: gets a blob, and what to call with the number of its bytes that are done.
            progress: may raise, which is as if ``work`` did.
            interrupt: wakes those threads that wait for something else than their turn.
        """
        self.changed = threading.Condition()
        self._stage = stage
        self._waiting = deque(blobs)
        self._done = {one.digest: 0 for one in self._waiting}
        self._size = sum(one.size for one in self._waiting)
        self._left = len(self._waiting)
        self._work = work
        self._progress = progress
        self._interrupt = interrupt
        self._telling = threading.Lock()
        self._working = 0
        self._stopped = False
        self._failure: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let them go on while the block runs, and wait at its end until all are done.

        Nothing goes on after it: where ``work`` or the block raises, the others end at their next
        step.
        """
        try:
            for number in range(min(_WORKERS, self._left)):
                threading.Thread(target=self._run, name=f"reflayer-{self._stage}-{number}").start()
            yield
            self.wait()
        except BaseException:
            self._stop()
            raise

    def wait(self, ready: Callable[[], bool] | None = None) -> None:
        """Wait until ``ready``, or for all blobs; raise what made one fail instead."""
        is_ready = ready or (lambda: not self._left)
        with self.changed:
            self.changed.wait_for(lambda: self._failure is not None or is_ready())
            if self._failure is not None:
                raise self._failure

    def _stop(self) -> None:
        """Let every thread end at its next step, and wait until all have."""
        self._give_up()
        with self.changed:
            self.changed.wait_for(lambda: not self._working)

    def _give_up(self) -> None:
        with self.changed:
            self._stopped = True
        self._interrupt()

    def _run(self) -> None:
        with self.changed:
            if self._stopped:
                return
            self._working += 1
        try:
            while blob := self._next():
                self._work(blob, partial(self._tell, blob.digest))
                with self.changed:
                    self._left -= 1
                    self.changed.notify_all()
        except StoppedError:
            pass  # the one that raised first tells why
        except BaseException as error:
            with self.changed:
                self._failure = self._failure or error
                self.changed.notify_all()
            self._give_up()
        finally:
            with self.changed:
                self._working -= 1
                self.changed.notify_all()

    def _next(self) -> Descriptor | None:
        with self.changed:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def _tell(self, digest: str, count: int) -> None:
        with self._telling:
            if self._stopped:
                raise StoppedError
            self._done[digest] = count
            if self._progress is not None:
                self._progress(self._stage, sum(self._done.values()), self._size)
