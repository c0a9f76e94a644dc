"""Signals that end the program: what was begun is undone first."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
else:
    import _signal as signal  # the module signal makes enumerations, which costs start-up time

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN = 0.01  # seconds: by then the interpreter has left the place that swallows exceptions


class Interrupted(BaseException):
    """A signal, of this number, asked the program to end; its status is what a shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number
        self.status = 128 + number

    def __str__(self) -> str:
        from signal import Signals

        return f"ended by {Signals(self.signal).name}"


def catch_signals() -> None:
    """From now on the first such signal raises ``Interrupted`` in the main thread.

    Those that follow are ignored, so that the undoing is not undone. A signal that comes inside a
    finalizer or a weak reference's callback, where the interpreter swallows what is raised
    (``sys.unraisablehook``), raises it a moment later.
    """
    usual = sys.unraisablehook

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if isinstance(args.exc_value, Interrupted):
            _raise_later(args.exc_value.signal)
        else:
            usual(args)

    sys.unraisablehook = unraisable
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup(1) leaves it
            signal.signal(number, _interrupt)


def ignore_signals() -> None:
    """From now on they come too late: what was asked for is done, and stays."""
    for number in _SIGNALS:
        if signal.getsignal(number) == _interrupt:
            signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, _: FrameType | None) -> None:
    ignore_signals()
    raise Interrupted(number)


def _raise_later(number: int) -> None:
    def again(_: int, __: FrameType | None) -> None:
        raise Interrupted(number)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN)
