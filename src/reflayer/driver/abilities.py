"""What layers can be in a home, found out by trying in its ``tmp/``."""

from __future__ import annotations

import errno
import os

from reflayer.driver.clone import make_folder, snapshot
from reflayer.driver.create import building
from reflayer.driver.home import BUILDS, opened
from reflayer.driver.trash import NO_FOLDER_LOCKS, delete
from reflayer.errors import failing
from reflayer.record import record
from reflayer.workers.lock import flock

_NO_DIFFERENCES = NO_FOLDER_LOCKS | {errno.EPERM, errno.EACCES, errno.EINVAL}
_CONTENT = b"content\n" * 512  # one block: a smaller file might be kept without any
_CLONES_ALL = ("snapshot", "tar")  # methods for which a layer is whole


@record
class Abilities:
    """What is known of a home when it was tried.

    Attributes:
        file_system: its name.
        method: how a layer is cloned.
        shares_blocks: whether a clone shares them with what it is of.
        keeps_differences: whether layers are kept as differences.
    """

    file_system: str
    method: str
    shares_blocks: bool
    keeps_differences: bool


def find_abilities(home: str, method: str) -> Abilities:
    """Find them out for a driver's ``method``.

    No differences are kept where a clone is a snapshot, which costs nothing; nor where whiteouts or
    their marks cannot be made, or folders not be locked, as on NFS (``trees``).

    Raises:
        OperationError: nothing can be made there, as on a full disk.
    """
    from reflayer.copy.method import best_method
    from reflayer.linux.statfs import file_system_name

    builds = f"{home}/{BUILDS}"
    with opened(builds, follow=True) as folder, failing(builds, "statfs"):
        file_system = file_system_name(folder)
    with building(home, "probe") as path:
        try:
            with failing(path, "try it"):
                make_folder(path)
                with open(f"{path}/file", "wb") as file:
                    file.write(_CONTENT)
                with opened(path) as folder:
                    if method == "auto":
                        is_snapshot = snapshot(folder, f"{path}/clone") is None
                        method = "snapshot" if is_snapshot else best_method(folder, folder)
                    keeps = method not in _CLONES_ALL and _can_keep_difference(folder)
        finally:
            delete(path)
    return Abilities(file_system, method, method in ("snapshot", "reflink"), keeps)


def _can_keep_difference(folder: int) -> bool:
    from reflayer.walk.overlay import WHITEOUT_MODE, Marks

    try:
        os.mknod("whiteout", WHITEOUT_MODE, 0, dir_fd=folder)
        Marks(folder)
        return flock(folder, shared=True, wait=False)
    except OSError as error:
        if error.errno not in _NO_DIFFERENCES:
            raise
        return False
