"""The process that empties the trash behind the back of whoever removed something.

It belongs to nobody: its own session, no descriptor of its starter but the lock of the trash, no
terminal, no folder that it would keep from being unmounted but those that it deletes.
"""

from __future__ import annotations

import _thread  # threading would cost a small program its import
import os
import sys
from contextlib import suppress

from reflayer.driver.trash import empty_trash, take_turn

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from reflayer.driver.behind import main; main()"
)

_NICE = 10  # each step is some 10 % less of a processor that others want, too
_TURN = 3  # the descriptor of the lock, in the process that is started

_started: list[int] = []  # processes of ours that have not ended


def delete_behind(home: str) -> None:
    """Let the trash of ``home`` be emptied, and return at once.

    Raises:
        OperationError: the trash cannot be locked.
    """
    turn = take_turn(home)
    if turn is None:
        return
    try:
        if os.getpid() == 1:
            raise ChildProcessError("what is started in a container ends with its first process")
        pid = _start(home, turn)
    except OSError:
        empty_trash(home, turn)  # it takes longer here, but the space has to come back
        return
    os.close(turn)  # it is that process's alone now
    _started.append(pid)
    _thread.start_new_thread(_see_off, (pid,))


def _start(home: str, turn: int) -> int:
    python = sys.executable
    if not python:
        raise FileNotFoundError("an embedded interpreter may not know its program")
    return os.posix_spawn(
        python,
        [python, "-I", "-S", "-X", "utf8=1", "-c", _CODE, _PACKAGES, home],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, turn, _TURN),
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
        ],
        setsid=True,
        setsigmask=[],
    )


def main() -> None:
    """Empty the trash of the home that is the program's last argument."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > _TURN:
            with suppress(OSError):  # the one that listed them is closed already
                os.close(fd)
    os.set_inheritable(_TURN, False)
    os.chdir("/")
    _step_back()
    empty_trash(sys.argv[-1], _TURN)


def _step_back() -> None:
    """Let whoever wants the processors go first: the next clone, for one (sched(7)).

    A tenth of a busy one is left: with the least that there is, disks would fill up.
    """
    os.nice(_NICE)
    # A session is scheduled as one, where the kernel has autogroups.
    with suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write(str(_NICE))


def _see_off(pid: int) -> None:
    """Wait for its end, so that no zombie stays in a process that lives long."""
    with suppress(ChildProcessError):  # somebody else in this process waits for all children
        os.waitpid(pid, 0)
    _started.remove(pid)
