"""Spares that a daemon keeps by itself: of the layers that containers are made of lately.

That are as many of a layer as it was used times in the last minute, up to a limit. A minute after
the last time they go; but one of a layer that was used twice stays, for a day (``spares.tidy``):
what is used again may be once more, and what a build makes for its next step is not.

How many they are is kept in the home, so the next process goes on with them. Nothing wakes up to
look at them but one thread, and that once a minute while layers are used.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from reflayer.driver import spares
from reflayer.driver.trash import delete_behind, left_in_trash
from reflayer.errors import ReflayerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.home import Making

_MINUTE = 60.0  # seconds
_DAY = 86_400.0


class Lately:
    """What was used of one home.

    Attributes:
        most: how many spares of a layer there may be.
    """

    def __init__(self, home: str, making: Making, most: int) -> None:
        """Go on with what a process before this one has kept, as far as there may be so many."""
        self.most = most
        self._home = home
        self._making = making
        self._lock = threading.Lock()
        self._uses: dict[str, list[float]] = {}  # by layer, the last times, of time.monotonic()
        self._waits = False  # whether there is a thread that will look
        with suppress(ReflayerError):
            self._resume()

    def note(self, layer: str) -> None:
        """Note that a layer is used, which is there.

        Raises:
            OperationError: it cannot be noted, as on a full disk.
        """
        now = time.monotonic()
        with self._lock:
            uses = self._uses[layer] = [*self._uses.get(layer, ()), now][-max(self.most, 2) :]
        self._look_later()
        count = min(_recent(uses, now), self.most)
        spares.keep_own(self._home, layer, count, self._making, or_more=True)

    def _resume(self) -> None:
        then = time.monotonic() - _MINUTE
        for layer, own in spares.all_own(self._home).items():
            if own > self.most:
                spares.keep_own(self._home, layer, self.most, self._making)
            if self.most:
                self._uses[layer] = [then, then]
                self._look_later()

    def _look_later(self) -> None:
        with self._lock:
            if self._waits:
                return
            self._waits = True
        timer = threading.Timer(_MINUTE * 1.1, self._look)
        timer.daemon = True
        timer.start()

    def _look(self) -> None:
        self._waits = False
        with suppress(ReflayerError):
            if self._fade():
                self._look_later()
            spares.make_room(self._home)
            if left_in_trash(self._home):
                delete_behind(self._home)

    def _fade(self) -> bool:
        """Let go of what is more than was used in the last minute; whether something was."""
        is_used = False
        for layer, uses in list(self._uses.items()):
            last, now = spares.last_use(self._home, layer), time.monotonic()
            recent = _recent(uses, now)
            stays = len(uses) > 1 and now - uses[-2] < _DAY
            if last and not recent and 0 <= time.time() - last < _MINUTE:
                is_used = True  # by another process
                continue
            if last:
                count = min(max(recent, int(stays)), self.most)
                spares.keep_own(self._home, layer, count, self._making)
            if recent:
                is_used = True
            elif not last or not stays:
                with self._lock:
                    if self._uses.get(layer) is uses:
                        del self._uses[layer]
        return is_used


def _recent(uses: list[float], now: float) -> int:
    return sum(now - use < _MINUTE for use in uses)
