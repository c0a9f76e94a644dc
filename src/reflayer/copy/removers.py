"""Helper processes that delete the same tree as their caller, each in an order of its own.

Nothing is told between them: whoever comes second finds a name gone. What a helper cannot delete
its caller meets too, and tells.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import select
import signal
import sys
import time
from contextlib import suppress

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from reflayer.copy.removers import main; main()"
)
_FOLDER = 3  # the descriptor of the tree in a helper: the interpreter does not like it as 0, 1, 2
_ALONE = 0.05  # seconds that the caller deletes before it calls for help


class Removers:
    """The helpers of one deletion; none before it takes long."""

    def __init__(self, folder: int, workers: int) -> None:
        """Prepare for ``workers`` processes, the caller included, to empty the open ``folder``."""
        # Out of the way of the numbers that it gets in the helpers.
        self._folder = fcntl.fcntl(folder, fcntl.F_DUPFD_CLOEXEC, 10)
        self._missing = workers - 1
        self._hands = workers
        self._pids: list[int] = []
        self._started = time.monotonic()
        self._ours = -1

    def call(self) -> None:
        """Start the helpers, if it is time for them; it goes without those that cannot be."""
        if self._missing and time.monotonic() - self._started > _ALONE:
            self._missing = 0
            with suppress(OSError):
                self._start()

    def _start(self) -> None:
        theirs, self._ours = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, self._folder, _FOLDER),
        ]
        try:
            for hand in range(1, self._hands):
                arguments = [sys.executable, "-I", "-S", "-c", _CODE, _PACKAGES]
                numbers = [str(hand), str(self._hands)]
                pid = os.posix_spawn(
                    sys.executable, arguments + numbers, os.environ, file_actions=actions
                )
                self._pids.append(pid)
        finally:
            os.close(theirs)

    def end(self) -> None:
        """End the helpers, who have nothing left to do, and wait until they are gone."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._pids:
            with suppress(ChildProcessError):  # somebody else in this process waits for all
                os.waitpid(pid, 0)
        self._pids.clear()
        for fd in (self._folder, self._ours):
            if fd >= 0:
                os.close(fd)


def main() -> None:
    """Empty the folder behind ``_FOLDER``, while the other end of standard input is open."""
    from reflayer.copy.emptying import empty_folder
    from reflayer.errors import OperationError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the caller decides
    _thread.start_new_thread(_end_with_caller, ())
    hand, hands = int(sys.argv[2]), int(sys.argv[3])
    with suppress(OperationError):
        empty_folder(_FOLDER, b"", hand=hand, hands=hands)


def _end_with_caller() -> None:
    poll = select.poll()
    poll.register(0, 0)  # no event but the hang-up, which is always told
    poll.poll()
    os._exit(1)
