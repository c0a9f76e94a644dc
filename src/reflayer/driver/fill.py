"""What makes spares: one process for a home, behind whoever took one or asked for some.

It holds ``spares.lock``, and looks again when it has let go of it: so what is asked for meanwhile
needs no process of its own. For some seconds it waits for more with the lock shared, since to start
a process takes more than all else in taking a spare. It ends when its lock file is gone, or little
of the disk is free.

It works when nobody has asked for a spare for a moment. A database that commits waits until the
disk has all that is in the file system's journal by then, be it of others: so of many spares that
are taken in a row none waits for what is made for the next, and that is written out before it is a
spare, where blocks are not shared with all of its content: ext4 and XFS write that half a minute
later, and commits would wait for it then. One process is started for all of them.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress

from reflayer.driver import spares
from reflayer.driver.home import SPARES_LOCK, opened, unlink, write_out
from reflayer.driver.room import is_short, keep_free
from reflayer.driver.trash import delete, delete_behind, left_in_trash
from reflayer.errors import LayerError, OperationError, ReflayerError
from reflayer.workers import behind
from reflayer.workers.lock import flock, is_at, open_locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reflayer.driver.home import Making
    from reflayer.driver.spares import Spares
    from reflayer.progress import Progress

_LINGER = 2.0  # seconds
_LOOK = 0.03  # seconds between two looks at what is missing
_QUIET = 0.15  # seconds: a container that was just made is being started (ctr run: 0.09)
_MOST = 7  # times that nobody asks for so long is waited for
_SHARE = 3  # of the time that it had to wait for others, what is left to them besides
_LONGEST = 0.3  # seconds, at a time
_PATIENCE = 1.0  # second, for one spare
_SHARING = frozenset({"snapshot", "reflink"})  # methods by which no content is to be written


class _StoppedError(Exception):
    """The spare that is being made is wanted no more."""


def fill_behind(home: str, layer: str | None, left: int | None = None) -> None:
    """Let another process make what spares are missing, if ``layer``, or with None any, does.

    ``left`` is how many of that are ready, where the caller has just looked.
    """
    if layer is None:
        layer = _next(home, {})
    if layer is None:
        return
    if left is None:
        is_lacking = _lacks(spares.of_layer(home, layer))
    else:
        is_lacking = left < (spares.wanted(home, layer) or (0,))[0]
    if not is_lacking or is_short(home):
        return
    with suppress(OperationError):  # on a full disk there may be no lock file
        turn = open_locked(f"{home}/{SPARES_LOCK}", wait=False)
        if turn is not None:  # else a process has it, and will see what is wanted by now
            try:
                behind.start(__name__, "fill", home, turn, may_be_ended=True)
            except OSError:
                os.close(turn)  # then there is none the next time


def fill_now(home: str, layer: str, making: Making, progress: Progress | None) -> None:
    """Make what spares of ``layer`` are missing, in this process.

    Raises:
        LayerError: the layer was removed, or is wanted no more.
        OperationError: one cannot be made, as where little of the disk is free.
    """
    lock = f"{home}/{SPARES_LOCK}"
    spares.stop_filling(home)  # it works with one thread, and steps back for others
    while _lacks(spares.of_layer(home, layer)):
        turn = open_locked(lock)
        assert turn is not None
        try:
            while is_at(lock, turn) and _lacks(now := spares.of_layer(home, layer)):
                _require_room(home)
                if progress is not None:
                    progress("spares", now.ready, now.wanted)
                with suppress(_StoppedError):
                    _make(home, layer, making, turn, lambda step: step())
        finally:
            os.close(turn)


def fill(home: str, turn: int | None) -> None:
    """Make what spares are missing; ``turn`` is a descriptor that holds the lock, closed here."""
    from concurrent.futures import ThreadPoolExecutor

    failed: dict[str, float] = {}  # by layer, when it was last asked for
    with ThreadPoolExecutor(1, initializer=_step_back) as worker:

        def behind_others(step: Callable[[], None]) -> None:
            worker.submit(step).result()

        while turn is not None:
            try:
                while True:
                    _fill(home, turn, failed, behind_others)
                    if left_in_trash(home):
                        delete_behind(home)
                    if not _is_asked_again(home, turn, failed):
                        break
                if not is_at(f"{home}/{SPARES_LOCK}", turn):
                    return
            finally:
                os.close(turn)
            # What was asked for while this was locked is left to us.
            is_over = is_short(home) or _next(home, failed) is None
            turn = None if is_over else open_locked(f"{home}/{SPARES_LOCK}", wait=False)


def _fill(
    home: str,
    turn: int,
    failed: dict[str, float],
    apart: Callable[[Callable[[], None]], None],
) -> None:
    """Make what is missing now."""
    spares.tidy(home)
    while (layer := _next(home, failed)) is not None and not is_short(home):
        _until_quiet(home, layer)
        asked, at = spares.wanted(home, layer), spares.last_use(home, layer)
        making = None if asked is None else spares.making_of(asked[1])
        try:
            if making is None:
                failed[layer] = at  # another user's
            else:
                _make(home, layer, making, turn, apart, _Pauses(home, layer).pause)
        except _StoppedError:
            pass
        except ReflayerError:
            failed[layer] = at
        if not is_at(f"{home}/{SPARES_LOCK}", turn):
            return


def _is_asked_again(home: str, turn: int, failed: dict[str, float]) -> bool:
    """Wait for a while, with a shared lock; whether something is missing, and the lock ours again.

    Each change of a lock lets go of it first, so another process may have it then (flock(2)).
    """
    end = time.monotonic() + _LINGER
    while time.monotonic() < end and flock(turn, shared=True, wait=False):
        are_wanted = any(one.wanted for one in spares.all_spares(home))
        if not are_wanted or not is_at(f"{home}/{SPARES_LOCK}", turn):
            break
        if _next(home, failed) is not None and not is_short(home) and flock(turn, wait=False):
            return True
        time.sleep(_LOOK)
    return False


def _lacks(one: Spares) -> bool:
    return one.ready < one.wanted


def _next(home: str, failed: Mapping[str, float]) -> str | None:
    """The layer that lacks spares and was asked for last, if it has not ``failed`` since then."""
    asked = {
        one.layer: spares.last_use(home, one.layer)
        for one in spares.all_spares(home)
        if _lacks(one)
    }
    left = [layer for layer, at in asked.items() if failed.get(layer) != at]
    return max(left, key=asked.__getitem__, default=None)


def _until_quiet(home: str, layer: str) -> None:
    """Wait until nobody has asked for clones of ``layer`` for a moment; if need be, a second."""
    for _ in range(_MOST):
        passed = time.time() - spares.last_use(home, layer)
        if not 0 <= passed < _QUIET:
            return
        time.sleep(_QUIET - passed)


def _make(
    home: str,
    layer: str,
    making: Making,
    turn: int,
    apart: Callable[[Callable[[], None]], None],
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Make one spare of a layer; what takes long is done by ``apart``, and ``pause`` amid it."""
    from reflayer.driver.clone import clone
    from reflayer.driver.clone_times import clone_details, note
    from reflayer.driver.create import building
    from reflayer.driver.recycle import recycle_used

    asked, before = spares.wanted(home, layer), spares.sweep(home, layer)
    if before is None:
        raise LayerError(f"there is no layer {layer}")
    if recycle_used(home, layer, making, apart):
        return

    def go_on(*_: object) -> None:
        is_ours = is_at(f"{home}/{SPARES_LOCK}", turn)
        now = spares.wanted(home, layer)
        if not is_ours or now is None or asked is None or now[1] != asked[1]:
            raise _StoppedError
        if not _lacks(spares.of_layer(home, layer)):  # fewer are wanted by now
            raise _StoppedError
        _require_room(home)
        pause()

    with building(home, layer) as path:
        folders: list[int] = []
        methods: list[str] = []

        def copy() -> None:
            report = clone(home, layer, path, making, progress=go_on, folders=folders)
            methods.append(report.method)
            if report.method not in _SHARING:
                with opened(path) as fd:
                    write_out(fd, path)

        apart(copy)
        noted = None
        if methods != ["snapshot"]:
            noted = note(home, path, layer, clone_details(spares.key(making), folders))
        if not spares.add(home, layer, path, noted, making, before, only_wanted=True):
            if noted is not None:
                unlink(noted)
            delete(path)


def _require_room(home: str) -> None:
    if is_short(home):
        reason = f"it would leave less than {keep_free(home)} % of the disk free"
        raise OperationError(home, "make a spare", reason, errno.ENOSPC)


class _Pauses:
    """What the thread that makes a spare leaves to others; it calls ``pause`` some times a second.

    What it has is what nobody else wants of the processors. But it holds locks of the file system
    meanwhile, and others wait for those as well: so where it had to wait it rests for longer. On a
    machine that is always busy it does so for a second, and then goes on as any other process
    of a low priority: it does not take minutes for a spare.
    """

    def __init__(self, home: str, layer: str) -> None:
        self._home = home
        self._layer = layer
        self._left = _PATIENCE
        self._since: tuple[float, float] | None = None  # by the clock, and of the processor

    def pause(self) -> None:
        """Rest for a while, and as long as spares are asked for."""
        if self._since is None:
            _step_back()
        elif self._left > 0:
            waited = time.monotonic() - self._since[0] - (time.thread_time() - self._since[1])
            rest = max(0.0, min(_SHARE * waited, _LONGEST, self._left))
            time.sleep(rest)
            self._left -= rest
            if self._left <= 0:
                _step_back(os.SCHED_OTHER)
        _until_quiet(self._home, self._layer)
        self._since = time.monotonic(), time.thread_time()


def _step_back(policy: int = os.SCHED_IDLE) -> None:
    """Let the thread that copies have what nobody else wants of the processors.

    Not all of the process: what holds a lock for a moment must not wait with it (sched(7)).
    """
    with suppress(OSError):  # an ordinary user may not take it back
        os.sched_setscheduler(0, policy, os.sched_param(0))
