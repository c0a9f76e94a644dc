"""Which method a clone takes in a home: found out by making one."""

from __future__ import annotations

import os

from reflayer.driver.builds import building
from reflayer.driver.clone import make_folder
from reflayer.driver.durable import open_folder
from reflayer.driver.home import BUILDS
from reflayer.driver.trash import delete
from reflayer.errors import OperationError
from reflayer.linux.statfs import file_system_name

SHARING = frozenset({"snapshot", "reflink"})
"""The methods whose clones share the blocks of their parents."""

_CONTENT = b"content\n" * 512  # one block: a smaller file might be kept without any


def status(home: str, method: str) -> dict[str, str]:
    """What ``Driver.status`` returns for a driver of ``method``."""
    builds = f"{home}/{BUILDS}"
    folder = open_folder(builds)
    try:
        file_system = file_system_name(folder)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(builds), "statfs") from error
    finally:
        os.close(folder)
    found = best_method(builds) if method == "auto" else method
    shared = str(found in SHARING).lower()
    return {"Backing Filesystem": file_system, "Method": found, "Shared Blocks": shared}


def best_method(builds: str) -> str:
    """The method that ``auto`` takes for a layer made here, tried in the folder ``builds``.

    Raises:
        OperationError: nothing can be made there.
    """
    with building(builds, "trial") as path:
        try:
            make_folder(path)
            return _try(path)
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(path), "try it") from error
        finally:
            delete(path)


def _try(path: str) -> str:
    from reflayer.copy.content import LADDER
    from reflayer.copy.probe import why_not
    from reflayer.driver.snapshot import snapshot

    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(f"{path}/file", "wb") as file:
            file.write(_CONTENT)
        if snapshot(folder, f"{path}/clone") is None:
            return "snapshot"
        return next(method for method in LADDER if why_not(method, folder, folder) is None)
    finally:
        os.close(folder)
