"""A process that works behind the one that starts it, and outlives it: it deletes, or fills.

It has its own session, no descriptor of its starter but one that holds a lock, no terminal, no
folder that it would keep from being unmounted but those that it works on.

A descriptor is closed before exec(2), even if that would close it: the starter goes on before exec
has come so far, and what it has locked and let go of would still be locked for a moment.
"""

from __future__ import annotations

import _thread  # threading would cost a small program its import
import os
import sys
from contextlib import suppress

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from reflayer.workers.behind import main; main(*sys.argv[2:])"
)

_NICE = 10  # each step is some 10 % less of a processor that others want, too
_LOCK = 3  # the descriptor of the lock, in the process that is started

_started: list[int] = []  # processes of ours that have not ended


def start(
    module: str, function: str, folder: str, lock: int, *, may_be_ended: bool = False
) -> None:
    """Let another process call ``function(folder, lock)`` of ``module``; return at once.

    The descriptor ``lock``, which holds a lock, is inherited there and closed here. The first
    process of a container starts none, since it would end with it, but what ``may_be_ended``.

    Raises:
        OSError: the process cannot be started; ``lock`` is open still.
    """
    if os.getpid() == 1 and not may_be_ended:
        raise ChildProcessError("what is started in a container ends with its first process")
    python = sys.executable
    if not python:
        raise FileNotFoundError("an embedded interpreter may not know its program")
    fds = set(map(int, os.listdir("/proc/self/fd"))) - {*range(_LOCK + 1)}
    pid = os.posix_spawn(
        python,
        [python, "-I", "-S", "-X", "utf8=1", "-c", _CODE, _PACKAGES, module, function, folder],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, lock, _LOCK),
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in fds),
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)),
        ],
        setsid=True,
        setsigmask=[],
    )
    os.close(lock)
    _step_back(pid)
    _started.append(pid)
    _thread.start_new_thread(_wait_for, (pid,))


def main(module: str, function: str, folder: str) -> None:
    """The process's program."""
    os.set_inheritable(_LOCK, False)
    os.chdir("/")
    from importlib import import_module

    getattr(import_module(module), function)(folder, _LOCK)


def _step_back(pid: int) -> None:
    """Let others that want the processors go before process ``pid`` (sched(7)).

    The next clone, for one; and who starts it, while its interpreter starts. A tenth of a busy
    processor is left to it: with the least that there is, disks would fill up.
    """
    with suppress(OSError):  # it has ended
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        # A session is scheduled as one, where the kernel has autogroups.
        with open(f"/proc/{pid}/autogroup", "w") as group:
            group.write(str(_NICE))


def _wait_for(pid: int) -> None:
    """Leave no zombie in a process that lives long."""
    with suppress(ChildProcessError):  # another thread waits for all children
        os.waitpid(pid, 0)
    _started.remove(pid)
