"""A cgroup whose processes stand still (cgroups(7); cgroup-v2.rst: ``cgroup.freeze``)."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PAUSE = 0.0005  # seconds
_PATIENCE = 30.0  # seconds: a process in a call that cannot be interrupted comes to its end first


@contextmanager
def frozen(cgroup: str) -> Iterator[None]:
    """Let no process in the folder ``cgroup`` of a cgroup2 file system run while the block does.

    One that was frozen before stays so. A kill of this process leaves it frozen.

    Raises:
        OSError: it is no such folder, or may not be written to; EDEADLK: this process is in it.
        TimeoutError: a process in it did not come to a stop.
    """
    for folder, *_ in os.walk(cgroup):
        with open(f"{folder}/cgroup.procs") as processes:
            if f"{os.getpid()}\n" in processes:
                raise OSError(errno.EDEADLK, "this process is in it")
    with open(f"{cgroup}/cgroup.freeze") as state:
        if state.read() == "1\n":
            yield
            return
    try:
        _set(cgroup, "1")
        _wait(cgroup)
        yield
    finally:
        _set(cgroup, "0")


def _set(cgroup: str, state: str) -> None:
    with open(f"{cgroup}/cgroup.freeze", "w") as file:
        file.write(state)


def _wait(cgroup: str) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        with open(f"{cgroup}/cgroup.events") as events:
            if "frozen 1\n" in events:
                return
        if time.monotonic() > end:
            raise TimeoutError(f"{os.path.basename(cgroup)}: a process did not come to a stop")
        time.sleep(_PAUSE)
