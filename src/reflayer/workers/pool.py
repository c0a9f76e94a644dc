"""Threads that share the work of one walk over a tree.

A worker walks by itself. Between two steps it asks ``pause`` whether another worker is idle, and
then gives it part of what it still has to do. The caller is a worker, too; the others are started
when it has worked for a while, so that a small tree never waits for a thread.

When is the walk over? A worker that has nothing left cannot tell: another may be about to give some
away. With a queue, each piece of work would have to be counted in and out, under a lock. So nothing
is queued: work goes only to a worker that sleeps, from one that is awake. When the last one falls
asleep, no other is left that could wake it with work: it wakes all of them with none, and they end.

Signals reach the caller alone, after any call that it makes. So a thread takes its place in the
pool and among the workers by itself, and a sleeper that is woken is taken off the list without a
call. Whatever ends one worker ends the others at their next ``pause``, and ``run`` raises it when
they have ended.
"""

from __future__ import annotations

import _thread  # threading would cost a small program its import
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Work = Any  # whatever the walk is made of

_ALONE = 0.0005  # seconds that the caller works before others are started
_TELL = 0.1  # seconds between two calls of a progress callback
_CGROUP_ROOT = "/sys/fs/cgroup"


def usable_cpus() -> int:
    """Processors by affinity (sched_getaffinity(2)) and cgroup quota, rounded up; at least 1."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    quota = _quota()
    return max(1, count if quota is None else min(count, -int(-quota // 1)))


def is_crowded() -> bool:
    """Whether more than two threads for each processor of the machine want to run at this moment.

    Workers that share a file system's locks are of no use then: one that has lost its processor has
    the others wait for the lock that it holds, and in a group of processes (cgroups(7), sched(7) on
    autogroups) they only share what one alone would get.
    """
    try:
        with open("/proc/loadavg", "rb", 0) as file:
            running = file.read().split()[3].partition(b"/")[0]
    except OSError:
        return False
    return int(running) > 2 * (os.cpu_count() or 1)


def _quota() -> float | None:
    """The tightest quota of this process's cgroup and those above it (cgroups(7), cpu.max)."""
    try:
        with open("/proc/self/cgroup") as table:
            path = next(line[3:].rstrip("\n") for line in table if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    quotas = []
    while True:
        try:
            with open(f"{_CGROUP_ROOT}{path.rstrip('/')}/cpu.max") as limit:
                quota, period = limit.read().split()
            if quota != "max":
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            pass  # the root cgroup has none
        if path in ("/", ""):
            return min(quotas, default=None)
        path = os.path.dirname(path)


class Pool:
    """How many threads may work beside their callers, for all copies that share it."""

    def __init__(self, most: int) -> None:
        """Let ``most`` threads work at once."""
        self._free = self.most = most
        self._lock = _thread.allocate_lock()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_free(self) -> bool:
        """Whether one more may be started now."""
        return self._free > 0

    def take(self) -> bool:
        """Whether one more may work; ``give_back`` when it has ended."""
        with self._lock:
            if self._free <= 0:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """One has ended."""
        with self._lock:
            self._free += 1

    def close(self) -> None:
        """Let no more be started; copies go on with what they have."""
        with self._lock:
            self._free -= 1 << 30


_shared: list[Pool] = []
os.register_at_fork(after_in_child=_shared.clear)  # its threads, or its lock, stayed behind


def shared_pool() -> Pool:
    """The pool of all that names no other: a thread for each processor, the callers' included."""
    if not _shared:
        _shared.append(Pool(usable_cpus() - 1))
    return _shared[0]


class Stopped(BaseException):
    """Another worker has failed: this one ends without a word."""


class _Sleeper:
    """A worker that waits for work, or for the end."""

    __slots__ = ("awake", "work")

    def __init__(self) -> None:
        self.work: Work | None = None
        self.awake = _thread.allocate_lock()
        self.awake.acquire()


class Workers:
    """The workers of one walk, at most ``most`` at once."""

    def __init__(
        self,
        begin: Callable[[], Callable[[Work], None]],
        most: int | None = None,
        pool: Pool | None = None,
        tell: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            begin: called once by each worker; returns what does a piece of work.
            most: workers, the caller included; by default as many as the pool lets be.
            pool: what threads are taken from; by default the one that all share, or with ``most``
                one of its own.
            tell: called by the caller's thread now and then.
        """
        self._begin = begin
        self._pool = pool or (shared_pool() if most is None else Pool(most - 1))
        self.most = most or self._pool.most + 1
        self._missing = -1 if most is None else most - 1  # to be started; below 0 without a bound
        self._tell = tell
        self._caller = _thread.get_ident()
        self._started = self._told = time.monotonic()
        self._lock = _thread.allocate_lock()
        self._count = 1  # workers that have not ended
        self._sleepers: list[_Sleeper] = []
        self._ends: list[_thread.LockType] = []  # held by each thread until it ends
        self._is_starting = False
        self._is_over = False
        self._error: BaseException | None = None

    def run(self, first: Work) -> None:
        """Do ``first``, and all that is given meanwhile.

        Raises:
            BaseException: the first that ended a worker. None is at work any more.
        """
        caught: BaseException | None = None
        is_begun = False
        while True:
            try:
                if caught is not None:
                    self._stop(caught)
                if not is_begun:
                    is_begun = True
                    self._work(self._begin(), first)
                for end in self._ends:  # whatever happens here, they have to end
                    with end:
                        pass
                break
            except BaseException as error:
                caught = error
        if self._error is not None:
            raise self._error

    def pause(self) -> bool:
        """Between two steps of the walk: whether a worker is idle, and ``give`` is of use.

        Raises:
            Stopped: another worker has failed.
        """
        if self._error is not None:
            raise Stopped
        if _thread.get_ident() == self._caller:
            now = time.monotonic()
            if self._missing and not self._is_starting and now - self._started > _ALONE:
                self._start()
            if self._tell is not None and now - self._told > _TELL:
                self._told = now
                try:
                    self._tell()
                except BaseException as error:  # an OSError, too: it is not of the file at hand
                    self._stop(error)
                    raise Stopped from None
        return bool(self._sleepers)

    def give(self, work: Work) -> bool:
        """Hand ``work`` to a worker that is idle; False where there is none."""
        with self._lock:
            if not self._sleepers or self._error is not None:
                return False
            self._sleepers[-1].work = work
            self._wake_one()
            return True

    def _start(self) -> None:
        if not self._pool.is_free():
            return
        self._is_starting = True
        try:
            _thread.start_new_thread(self._work_in_thread, ())
        except RuntimeError:  # no more threads for this user: it goes without, only slower
            self._missing = 0

    def _work_in_thread(self) -> None:
        if not self._pool.take():
            self._is_starting = False
            return
        end = _thread.allocate_lock()
        with end:
            try:
                if self._joins(end):
                    self._work(self._begin(), None)
            except BaseException as error:
                self._stop(error)
            finally:
                self._pool.give_back()

    def _joins(self, end: _thread.LockType) -> bool:
        """Whether a thread that was started still finds the others at work; then it counts."""
        with self._lock:
            self._is_starting = False
            if self._is_over or self._error is not None:
                return False
            self._missing -= 1
            self._count += 1
            self._ends.append(end)
            return True

    def _work(self, do: Callable[[Work], None], work: Work | None) -> None:
        while work is not None or (work := self._take()) is not None:
            do(work)
            work = None

    def _take(self) -> Work | None:
        """Wait for work; None when all is done."""
        sleeper: _Sleeper = _Sleeper()
        try:
            with self._lock:
                self._sleepers.append(sleeper)
                if len(self._sleepers) == self._count or self._error is not None:
                    self._is_over = True
                    self._wake_all()
            if _thread.get_ident() == self._caller:
                while not sleeper.awake.acquire(timeout=_TELL):
                    self.pause()
            else:
                sleeper.awake.acquire()
        except BaseException as error:
            self._stop(error)  # now nothing is given any more
        if self._error is not None and sleeper.work is None:
            raise Stopped
        return sleeper.work  # after an error, too: doing it closes what it has open

    def _wake_one(self) -> None:
        sleeper = self._sleepers[-1]
        del self._sleepers[-1]
        sleeper.awake.release()

    def _wake_all(self) -> None:
        while self._sleepers:
            self._wake_one()

    def _stop(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None or not isinstance(error, (Exception, Stopped)):
                self._error = error  # a signal is not lost behind an error
            self._wake_all()
