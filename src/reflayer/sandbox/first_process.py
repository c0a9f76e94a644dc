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
                pid = int(json.loads(file.readline())["child-pid"])
            return pid if is_first(pid) else 0  # its start is not told
        name, number, start = _RECORDS[runtime.name]
        with open(f"{states}/{os.path.basename(bundle)}/{name}") as file:
            told = json.load(file)
        pid = int(told[number])
        with open(f"/proc/{pid}/stat") as file:  # another process may have the number by now
            if int(file.read().rpartition(")")[2].split()[_START]) == told[start]:
                return pid
    return 0


def is_first(pid: int) -> bool:
    """Whether a process is the first of a PID namespace, as few are (proc_pid_status(5))."""
    with open(f"/proc/{pid}/status") as file:
        numbers = file.read().partition("\nNSpid:")[2].partition("\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == "1"


def is_in_reach(pid: int) -> bool:
    """Whether this process may enter the namespaces of another."""
    try:
        os.stat(f"/proc/{pid}/ns/user")
    except PermissionError:
        return False
    except FileNotFoundError:  # it has ended
        pass
    return True


def has_ended(pid: int) -> bool:
    """Whether a process has, even where its parent has not waited for it."""
    try:
        os.stat(f"/proc/{pid}/ns/user")
    except FileNotFoundError:
        return True
    except PermissionError:
        pass
    return False


def kill_as_its_user(runtime: Runtime, states: str, bundle: str) -> bool:
    """End it where it is of another namespace of this one's user, who is root here.

    Its descriptor is had before it is looked at again: so whatever gets its number when it has
    ended is not what is killed.
    """
    pid = first_process(runtime, states, bundle)
    if not pid:
        return False
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if first_process(runtime, states, bundle) == pid:
                with open(f"/proc/{pid}/status") as file:
                    _kill(process, int(file.read().partition("\nUid:")[2].split(maxsplit=1)[0]))
        finally:
            os.close(process)
    return True


def _kill(process: int, user: int) -> None:
    """Kill what a descriptor is of, as a user."""
    child = os.fork()
    if not child:
        try:
            os.setresuid(user, user, user)
            signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
