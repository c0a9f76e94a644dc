"""Spares that a daemon keeps by itself: of the layers that containers are made of lately.

That are as many of a layer as it was used times in the last minute, up to a limit. A minute after
the last time they go; but one of a layer that was used twice stays, for a day: what is used again
may be once more, and what a build makes for its next step is not.

How many they are is kept in the home, so the next process goes on with them. Nothing wakes up to
look at them but one thread: once a minute while layers are used, and when a day is over.
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
        self._timer: threading.Timer | None = None
        self._due = 0.0  # when it will look
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
        self._look_in(_soon())
        count = min(_recent(uses, now), self.most)
        spares.keep_own(self._home, layer, count, self._making, or_more=True)

    def _resume(self) -> None:
        then = time.monotonic() - _MINUTE
        for layer, own in spares.all_own(self._home).items():
            if own > self.most:
                spares.keep_own(self._home, layer, self.most, self._making)
            if self.most:
                self._uses[layer] = [then, then]
                self._look_in(_soon())

    def _look_in(self, seconds: float) -> None:
        with self._lock:
            due = time.monotonic() + seconds
            if self._timer is not None:
                if self._due <= due:
                    return
                self._timer.cancel()
            self._timer, self._due = threading.Timer(seconds, self._look), due
            self._timer.daemon = True
            self._timer.start()

    def _look(self) -> None:
        with self._lock:
            self._timer = None
        with suppress(ReflayerError):
            left = self._fade()
            if left:
                self._look_in(left)
            spares.make_room(self._home)
            if left_in_trash(self._home):
                delete_behind(self._home)

    def _fade(self) -> float:
        """Let go of what is more than was used lately; after how many seconds there is more."""
        left = []
        for layer, uses in list(self._uses.items()):
            last, now = spares.last_use(self._home, layer), time.monotonic()
            recent = _recent(uses, now)
            stays = uses[-2] + _DAY - now if len(uses) > 1 else 0
            if last and not recent and 0 <= time.time() - last < _MINUTE:
                left.append(_soon())  # another process has used it
                continue
            if last:
                count = min(max(recent, int(stays > 0)), self.most)
                spares.keep_own(self._home, layer, count, self._making)
            if recent:
                left.append(_soon())
            elif last and stays > 0:
                left.append(stays)
            else:
                with self._lock:
                    if self._uses.get(layer) is uses:
                        del self._uses[layer]
        return min(left, default=0)


def _recent(uses: list[float], now: float) -> int:
    return sum(now - use < _MINUTE for use in uses)


def _soon() -> float:
    return _MINUTE * 1.1  # what is a minute old then is surely older
