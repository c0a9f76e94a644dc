"""Signals that end the program: what was begun is undone first."""

from __future__ import annotations

import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the program to end.

    Attributes:
        signal: which one.
        status: the exit status that a shell expects then.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = signal.Signals(number)
        self.status = 128 + number

    def __str__(self) -> str:
        return f"ended by {self.signal.name}"


def catch_signals() -> None:
    """From now on the first such signal raises ``Interrupted`` in the main thread.

    Those that follow are ignored, so that the undoing is not undone.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup(1) leaves it
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)
