"""Delete a tree: alone where it is small, else with many hands."""

from __future__ import annotations

import os

from reflayer.copy.emptying import OPEN_FOLDER, empty_folder, let_in
from reflayer.copy.mounts import refuse_mounts
from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.paths import AnyPath


def remove_tree(path: AnyPath, *, workers: int = 1) -> int:
    """Delete the folder ``path`` and all in it; return how many names went here, by this process.

    Args:
        path: the folder; where it is not there, 0 is returned.
        workers: processes that work on it, this one included. A small tree never waits for one.

    Raises:
        OperationError: a name could not be deleted; what went before it is gone. With EBUSY it is
            a mount point, which has to be unmounted first; before all else is gone, as a rule.
    """
    name = os.fsencode(path).rstrip(b"/") or b"/"
    try:
        fd = os.open(name, OPEN_FOLDER)
    except FileNotFoundError:
        return 0
    except PermissionError:
        try:
            let_in(name)
            fd = os.open(name, OPEN_FOLDER)
        except OSError as error:
            raise OperationError.from_os_error(error, name, "open") from error
    except OSError as error:
        raise OperationError.from_os_error(error, name, "open") from error
    try:
        refuse_mounts(fd, name)
    except OSError as error:
        os.close(fd)
        raise OperationError.from_os_error(error, name, "look for mounts") from error
    except OperationError:
        os.close(fd)
        raise
    removed = _empty(fd, name, workers)
    try:
        os.rmdir(name)
    except FileNotFoundError:
        return removed
    except OSError as error:
        raise OperationError.from_os_error(error, name, "rmdir") from error
    return removed + 1


def _empty(fd: int, name: bytes, workers: int) -> int:
    if workers == 1:
        return empty_folder(fd, name)
    from reflayer.copy.removers import Removers

    removers = Removers(fd, workers)
    try:
        return empty_folder(fd, name, hands=workers, pause=removers.call)
    finally:
        removers.end()
