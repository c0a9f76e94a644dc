"""Delete a tree: alone where it is small, else with many workers."""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.errors import OperationError, failing
from reflayer.walk.empty import empty_folder
from reflayer.walk.folders import OPEN_FOLDER, open_shut
from reflayer.walk.mounts import refuse_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.walk.folders import AnyPath


def remove_tree(path: AnyPath, *, workers: int = 1) -> int:
    """Delete the folder ``path`` and all in it; return how many names went here.

    Args:
        path: the folder; where it is not there, 0 is returned.
        workers: threads that work on it, this one included. A small tree never waits for one.

    Raises:
        OperationError: a name could not be deleted; what went before it is gone. With EBUSY it is
            a mount point, which has to be unmounted first; before all else is gone, as a rule.
    """
    name = os.fsencode(path).rstrip(b"/") or b"/"
    with failing(name, "open"):
        try:
            fd = os.open(name, OPEN_FOLDER)
        except FileNotFoundError:
            return 0
        except PermissionError:
            fd = open_shut(name)
    try:
        with failing(name, "look for mounts"):
            refuse_mounts(fd, name)
    except OperationError:
        os.close(fd)
        raise
    removed = _empty(fd, name, workers)
    with failing(name, "rmdir"):
        try:
            os.rmdir(name)
        except FileNotFoundError:
            return removed
    return removed + 1


def _empty(fd: int, path: bytes, most: int) -> int:
    """Delete all in the open folder ``fd`` with ``most`` workers, as ``empty_folder`` does."""
    if most == 1:
        return empty_folder(fd, path)
    from reflayer.workers.pool import Workers

    removed: list[int] = []
    unlinking: set[int] = set()
    waiting = list(range(most - 1, 0, -1))  # numbers of the workers that have not begun

    def pause() -> None:
        if workers.pause():
            with suppress(IndexError):  # several workers can be here at once
                worker = waiting.pop()
                if not workers.give(worker):
                    waiting.append(worker)

    def empty(worker: int) -> None:
        try:
            own = os.dup(fd)
            removed.append(
                empty_folder(
                    own, path, worker=worker, workers=most, pause=pause, unlinking=unlinking
                )
            )
        except (OperationError, OSError):
            if worker == 0:  # who meets all that the others meet
                raise

    workers = Workers(lambda: empty, most)
    try:
        workers.run(0)
    finally:
        os.close(fd)
    return sum(removed)
