"""A terminal of a command's own (pty(7)), joined to ours."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 65536  # bytes


class Terminal:
    """A new pair; ``path`` is the command's side, empty where the runtime makes the pair.

    Between ``read`` and the end of the block ours is raw, if there is one.
    """

    def __init__(self, console: str, *, nested: bool) -> None:
        """With ``console`` the runtime makes it, and hands ours over by a socket of that path.

        Else it would have a second one, and crun (1.8) would not tell that how large ours is. With
        ``nested`` it has one: what is typed means something there alone.
        """
        self.path = ""
        self._slave = self.master = -1
        self._console = None
        if console:
            self._console = _listening(console)
            return
        self.master, self._slave = os.openpty()
        self.path = os.ttyname(self._slave)
        if nested:
            mode = termios.tcgetattr(self._slave)
            mode[0] &= ~(termios.ICRNL | termios.IXON)
            mode[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(self._slave, termios.TCSANOW, mode)
        self.resize()

    def resize(self) -> None:
        """Make it as large as ours is."""
        if self.master >= 0:
            with suppress(OSError):
                fcntl.ioctl(self.master, termios.TIOCSWINSZ, _size())

    def _receive(self, done: int) -> bool:
        """Have what the runtime hands over; False where it has ended before."""
        assert self._console is not None
        with self._console as console:
            if console.fileno() not in select.select([console.fileno(), done], (), ())[0]:
                return False
            connection, _ = console.accept()
            with connection:
                _, fds, *_ = socket.recv_fds(connection, _CHUNK, 1)
        if fds:
            self.master = fds[0]
            os.set_inheritable(self.master, False)
            self.resize()
        return bool(fds)

    def join(self, done: int, *, reads: bool) -> None:
        """Pass on what is printed, and typed where ``reads``, until ``done`` can be read."""
        if self._slave >= 0:
            os.close(self._slave)
        elif not self._receive(done):
            return
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


def _size() -> bytes:
    return fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))


def console_size() -> dict[str, int]:
    """How large ours is, as a spec has it (runtime-spec, config.md); empty where there is none."""
    with suppress(OSError):
        rows, columns, *_ = struct.unpack("4H", _size())
        return {"height": rows, "width": columns}
    return {}


def _listening(path: str) -> socket.socket:
    """A socket at a path that may be longer than the address of one (unix(7))."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        listener.listen()
    finally:
        os.close(folder)
    return listener


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
