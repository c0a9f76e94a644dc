"""A terminal of a command's own (pty(7)), joined to ours."""

from __future__ import annotations

import fcntl
import os
import select
import termios
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 65536  # bytes


class Terminal:
    """A new pair; ``path`` is the command's side.

    Between ``read`` and the end of the block ours is raw, if there is one.
    """

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.path = os.ttyname(slave)
        self._slave = slave
        self.resize()

    def resize(self) -> None:
        """Make it as large as ours is."""
        with suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def join(self, done: int, *, reads: bool) -> None:
        """Pass on what is printed, and typed where ``reads``, until ``done`` can be read."""
        os.close(self._slave)
        sources = [self.master, done, *([0] if reads else [])]
        with _raw(reads):
            while True:
                ready = select.select(sources, (), ())[0]
                if 0 in ready:
                    typed = os.read(0, _CHUNK)
                    if typed:
                        _write(self.master, typed)
                    else:
                        sources.remove(0)
                        with suppress(OSError):
                            os.write(self.master, b"\x04")
                if self.master in ready and not self._print():
                    return
                if ready == [done]:
                    return

    def _print(self) -> bool:
        try:
            printed = os.read(self.master, _CHUNK)
        except OSError:  # EIO: the last process has closed its side
            return False
        _write(1, printed)
        return bool(printed)


def _write(fd: int, data: bytes) -> None:
    with suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]


@contextmanager
def _raw(reads: bool) -> Iterator[None]:
    if not reads or not os.isatty(0):
        yield
        return
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
