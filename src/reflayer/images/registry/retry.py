"""What is tried again, how often, and after how long."""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime
from typing import TypeVar

from reflayer.errors import RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    Result = TypeVar("Result")

_ATTEMPTS = 5
_FIRST = 0.5  # seconds; each wait is twice the one before
_LONGEST = 300.0  # seconds that a registry may ask for
_WORTH = 1 << 20  # bytes: whoever gets as far as that may begin to count anew


class TemporaryError(RegistryError):
    """What may be gone at the next try.

    Attributes:
        after: seconds that the registry asked to wait, or None.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class StoppedError(Exception):
    """Something else failed or was given up: there is no need to go on."""


class Patience:
    """The tries of one thing."""

    def __init__(self, stop: threading.Event) -> None:
        """Whoever waits is woken by ``stop``, and ends."""
        self._stop = stop
        self._failures = 0
        self._bytes = 0

    def progressed(self, count: int) -> None:
        """So many more bytes are done."""
        self._bytes += count
        if self._bytes >= _WORTH:
            self._failures = 0

    def wait(self, error: TemporaryError) -> None:
        """Wait before the next try.

        Raises:
            TemporaryError: there have been enough of them, or the registry asks for too long.
            StoppedError: somebody asked to stop.
        """
        self._failures += 1
        self._bytes = 0
        if self._failures >= _ATTEMPTS:
            raise error
        delay = _FIRST * 2 ** (self._failures - 1) * random.uniform(0.75, 1.25)
        if error.after is not None:
            delay = error.after
        if delay > _LONGEST:
            raise TemporaryError(f"{error}: it asks to wait {delay:.0f} seconds") from error
        if self._stop.wait(delay):
            raise StoppedError


def again(stop: threading.Event, action: Callable[[], Result]) -> Result:
    """Do ``action`` until it does not fail, or fails for good.

    Raises:
        RegistryError: it does.
        StoppedError: somebody asked to stop.
    """
    patience = Patience(stop)
    while True:
        try:
            return action()
        except TemporaryError as error:
            patience.wait(error)


def seconds_to_wait(text: str | None) -> float | None:
    """What ``Retry-After`` says (RFC 9110, 10.2.3): seconds or a date; None where it is neither."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds)
