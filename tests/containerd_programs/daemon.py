"""A program that serves a Unix socket, in a session of its own, until it is stopped."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_PATIENCE = 120.0  # seconds until it serves, or has ended


class Daemon:
    """One daemon, which may be started again after it was stopped.

    Attributes:
        address: where it serves: the path of a Unix socket, or host and port.
        log: the file with all it wrote.
    """

    def __init__(
        self, command: Sequence[str | Path], address: Path | tuple[str, int], log: Path
    ) -> None:
        self.address = address
        self.log = log
        self._command = command
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return when it serves."""
        with open(self.log, "ab") as log:
            self._running = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + _PATIENCE
        while not self._serves():
            ended = self._running.poll() is not None
            assert not ended, f"{self._command[0]} ended:\n{self.log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"{self._command[0]} does not serve {self.address}"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask it to end and wait until it has; no harm where it has ended."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The process."""
        assert self._running is not None
        return self._running.pid

    def _end(self, how: signal.Signals) -> None:
        if self._running is None:
            return
        self._running.send_signal(how)
        try:
            self._running.wait(_PATIENCE)
        finally:
            self._running.kill()
            self._running = None

    def _serves(self) -> bool:
        family = socket.AF_UNIX if isinstance(self.address, Path) else socket.AF_INET
        where = str(self.address) if isinstance(self.address, Path) else self.address
        with socket.socket(family, socket.SOCK_STREAM) as client:
            return client.connect_ex(where) == 0


def free_port() -> int:
    """A TCP port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
