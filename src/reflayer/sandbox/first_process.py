"""The first process of what runs by a bundle: which it is, and how it is reached from elsewhere.

An ordinary user's commands make a user namespace each. All of them have the same ids, but from none
of them is there any power over what runs in another (user_namespaces(7)). So a command that goes
into a container goes from outside, where the user owns all of them, into the container's own; and
what a dead one left is ended by who has its user's id.
"""

from __future__ import annotations

import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from reflayer.sandbox.runtimes import Runtime
else:
    import _signal as signal

_RECORDS = {  # of OCI runtimes: the file, and what in it tells the process and its start
    "crun": ("status", "pid", "process-start-time"),
    "runc": ("state.json", "init_process_pid", "init_process_start"),
}
_START = 19  # of the fields of proc_pid_stat(5) behind the name, from 0 on


def first_process(runtime: Runtime, states: str, bundle: str) -> int:
    """Its number; 0 where there is none, or none any more."""
    import json

    with suppress(OSError, ValueError, KeyError):
        if not runtime.is_oci:
            with open(f"{bundle}/info") as file:
                return int(json.loads(file.readline())["child-pid"])
        name, number, start = _RECORDS[runtime.name]
        with open(f"{states}/{os.path.basename(bundle)}/{name}") as file:
            told = json.load(file)
        pid = int(told[number])
        with open(f"/proc/{pid}/stat") as file:  # another process may have the number by now
            if int(file.read().rpartition(")")[2].split()[_START]) == told[start]:
                return pid
    return 0


def is_in_reach(pid: int) -> bool:
    """Whether this process may enter the namespaces of another."""
    try:
        os.stat(f"/proc/{pid}/ns/user")
    except PermissionError:
        return False
    except FileNotFoundError:  # it has ended
        pass
    return True


def kill_as_its_user(pid: int) -> None:
    """End a process of another namespace of this one's user, who is root here."""
    with suppress(OSError), open(f"/proc/{pid}/status") as file:
        user = int(file.read().partition("\nUid:")[2].split(maxsplit=1)[0])
        child = os.fork()
        if not child:
            try:
                os.setresuid(user, user, user)
                os.kill(pid, signal.SIGKILL)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
