"""The caller's side of helper processes: started when a copy is large, kept warm by a daemon."""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress

from reflayer.copy.descriptors import send
from reflayer.errors import CopyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from reflayer.copy.helper import main; main()"
_MESSAGE = 1 << 17


class Helper:
    """One helper process and the socket to it.

    Attributes:
        socket: where it says ``idle``, ``error`` or ``report``; at its end the process is gone.
    """

    def __init__(self) -> None:
        """Start it, without a fork of this process, which may have threads (posix_spawn(3)).

        Raises:
            OSError: it could not be started.
        """
        self._is_up = False
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [sys.executable, "-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}"]
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [*arguments, "-c", _CODE, _PACKAGES],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                setsigmask=[signal.SIGINT],  # the terminal's, until it has learned to ignore it
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()

    def is_up(self) -> bool:
        """Whether it has finished starting, of which it sends word."""
        if not self._is_up:
            poll = select.poll()  # select(2) knows no descriptor beyond 1,023
            poll.register(self.socket, select.POLLIN)
            self._is_up = bool(poll.poll(0))
        return self._is_up

    def ask(self, message: tuple[Any, ...], fds: list[int]) -> None:
        """Let it join a copy."""
        send(self.socket, marshal.dumps(message), fds)

    def answer(self) -> tuple[object, ...]:
        """Its next message.

        Raises:
            CopyError: the process has died.
        """
        try:
            message = self.socket.recv(_MESSAGE)
        except ConnectionError:
            message = b""
        self._is_up = True
        if not message:
            raise CopyError(b"helper process %d" % self._pid, "copy", "it died; try again")
        answer = marshal.loads(message)
        assert isinstance(answer, tuple)
        return answer

    def kill(self) -> None:
        """End it at once, whatever it is doing, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        """Let it end, once it has nothing to do, and wait until it is gone."""
        self.socket.close()
        with suppress(ChildProcessError):  # somebody else in this process waits for all children
            os.waitpid(self._pid, 0)


class Pool:
    """Helpers that stay between copies, for a process that makes many; all copies share them."""

    def __init__(self, most: int) -> None:
        """Keep ``most`` helpers at the most; each is started when it is first wanted."""
        self._lock = threading.Lock()
        self._free: list[Helper] = []
        self._more = most

    def start(self, most: int) -> None:
        """Start at most ``most`` helpers ahead of the copy that may want them."""
        helpers: list[Helper] = []
        with suppress(OSError):  # a copy goes without, only slower
            while len(helpers) < most and (helper := self.hire()) is not None:
                helpers.append(helper)
        with self._lock:
            self._free += helpers

    def has_one_up(self) -> bool:
        """Whether a helper is free that need not be waited for."""
        with self._lock:
            return any(helper.is_up() for helper in self._free)

    def hire(self) -> Helper | None:
        """A helper that is free, or None."""
        with self._lock:
            if self._free:
                self._free.sort(key=Helper.is_up)
                return self._free.pop()
            if not self._more:
                return None
            self._more -= 1
        try:
            return Helper()
        except OSError:
            with self._lock:
                self._more += 1
            raise

    def release(self, helper: Helper) -> None:
        """Take back a helper that has reported."""
        with self._lock:
            self._free.append(helper)

    def bury(self, helper: Helper) -> None:
        """Kill a helper whose copy has failed; another may be started in its place."""
        helper.kill()
        with self._lock:
            self._more += 1

    def close(self) -> None:
        """End the helpers that are free."""
        with self._lock:
            free, self._free = self._free, []
            self._more += len(free)
        for helper in free:
            helper.end()
