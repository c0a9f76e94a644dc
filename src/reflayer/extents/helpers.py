"""The caller's side of the processes that measure trees for it."""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import subprocess
import sys
from array import array
from typing import TYPE_CHECKING

from reflayer.errors import OperationError
from reflayer.extents.messages import receive, send
from reflayer.extents.usage import TreeUsage

if TYPE_CHECKING:
    from collections.abc import Collection

    from reflayer.copy.paths import AnyPath

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from reflayer.extents.helper import main; main()"
)


class Helper:
    """One process, which measures a tree at a time."""

    def __init__(self) -> None:
        """Start it; nothing of this process, which may have threads, runs in it (vfork(2)).

        Raises:
            OSError: it could not be started.
        """
        self.socket, theirs = socket.socketpair()
        # It inherits what is blocked: the terminal's interrupt, until it has learned to ignore it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8=1", "-c", _CODE, _PACKAGES],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        self._path = b""

    def ask(self, path: AnyPath) -> None:
        """Let it measure the tree at ``path``.

        Raises:
            OperationError: it has died.
        """
        self._path = os.fsencode(os.path.abspath(path))
        try:
            send(self.socket, self._path)
        except ConnectionError:
            raise self._death() from None

    def answer(self) -> int | TreeUsage:
        """Its next message: how many entries it has seen since the last one, or all of the tree.

        Raises:
            OperationError: it met one, or has died.
        """
        try:
            message = receive(self.socket)
        except ConnectionError:
            raise self._death() from None
        answer = marshal.loads(message)
        if isinstance(answer, int):
            return answer
        kind, *values = answer
        if kind == "error":
            raise OperationError(*values)
        inodes, size, allocated, own, untold, shared, encoded, unread = values
        places = (array("Q", shared), array("Q", encoded))
        return TreeUsage(inodes, size, allocated, own, untold, *places, unread)

    def end(self) -> None:
        """End it, whatever it is doing, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self.socket.close()

    def _death(self) -> OperationError:
        return OperationError(self._path, "measure", "the process that did it died; try again")


def speaking(helpers: Collection[Helper], *, wait: bool) -> list[Helper]:
    """Those of ``helpers`` that have something to say; ``wait`` for one, if none has yet."""
    poll = select.poll()  # select(2) knows no descriptor beyond 1,023
    by_fd = {helper.socket.fileno(): helper for helper in helpers}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    return [by_fd[fd] for fd, _ in poll.poll(None if wait else 0)]
