"""Daemons as processes: started by a test, and gone after it whatever happens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 120.0  # seconds; a busy machine is no failure

# Becomes the daemon, with the sockets that it was given as numbers 3 and up (sd_listen_fds(3)).
_ACTIVATE = """
import os, sys
fds, command = sys.argv[1].split(","), sys.argv[2:]
for n, fd in enumerate(fds):
    os.dup2(int(fd), 100 + n, inheritable=False)  # out of the way of those that come next
    os.close(int(fd))
for n in range(len(fds)):
    os.dup2(100 + n, 3 + n)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.execv(command[0], command)
"""


@contextmanager
def daemon(
    command: Sequence[str],
    *,
    sockets: Sequence[socket.socket] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """The process of ``command``, to which ``sockets`` are passed as systemd does."""
    fds = [one.fileno() for one in sockets]
    if fds:
        listed = ",".join(map(str, fds))
        command = [sys.executable, "-c", _ACTIVATE, listed, *command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=fds,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=_PATIENCE)


def lines(folder: Path) -> list[str]:
    """The command that serves ``tests.plugins.lines`` at ``folder``/socket."""
    return [sys.executable, "-m", "tests.plugins.lines", str(folder / "socket")]


class Client:
    """A connection to a service of lines."""

    def __init__(self, path: Path) -> None:
        """Connect as soon as somebody listens there."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_PATIENCE)

        def connected() -> bool:
            try:
                self.socket.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

        until(connected)
        self._read = self.socket.makefile("r")

    def send(self, *words: object) -> None:
        """Send one line."""
        self.socket.sendall(" ".join(map(str, words)).encode() + b"\n")

    def answer(self) -> str:
        """The next line, without its end; empty at the end of the connection."""
        return self._read.readline().rstrip("\n")

    def ask(self, *words: object) -> str:
        """Send a line, and take the answer."""
        self.send(*words)
        return self.answer()

    def close(self) -> None:
        """Go away."""
        self._read.close()
        self.socket.close()


def until(happened: Callable[[], bool]) -> None:
    """Wait for something; fail when it takes far too long."""
    end = time.monotonic() + _PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def fill(layer: Path) -> None:
    """Make a layer of 2000 files, which workers share."""
    layer.mkdir(parents=True)
    for n in range(2000):
        (layer / f"file{n}").write_bytes(b"content")
