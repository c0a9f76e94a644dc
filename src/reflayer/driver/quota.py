"""How much a layer may take: the folder is a project of its own, and the file system sees to it.

Docker's vfs driver does the same. All in the folder counts, what the clone brought and shares with
its parent too.
"""

from __future__ import annotations

import os

from reflayer.driver.home import QUOTA_LOCK
from reflayer.errors import QuotaError, failing
from reflayer.linux.project_quota import (
    enforces_project_quotas,
    next_project,
    project_of,
    set_project,
    set_project_limit,
)
from reflayer.workers.lock import locked

_FIRST = 1 << 24  # the projects of others have low ids: those of /etc/projid, Docker's own
_RANGES, _RANGE = 1 << 12, 1 << 16  # so that two homes on one file system hardly meet


def require_quota(folder: str) -> None:
    """Make sure that quotas can be set in ``folder``.

    Raises:
        QuotaError: they cannot.
        OperationError: that cannot be found out.
    """
    with failing(folder, "quotactl"):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not enforces_project_quotas(fd):
                raise QuotaError("Filesystem does not support, or has not enabled quotas")
            project = project_of(fd)
        finally:
            os.close(fd)
    if project.is_inherited:
        # rename(2) would refuse to move a layer with a project of its own in or out.
        raise QuotaError(
            f"{folder} belongs to project {project.id} with all that is made in it, so no layer in "
            "it can have a quota of its own"
        )


def set_quota(path: str, size: int, home: str) -> None:
    """Let all that will be made in the empty folder ``path`` take ``size`` bytes at the most.

    Raises:
        OperationError: it cannot be set.
    """
    with failing(path, "set its quota"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # Held until the folder has the project, so that no other takes it for free.
            with locked(f"{home}/{QUOTA_LOCK}"):
                project = _free_project(fd, _FIRST + os.stat(home).st_ino % _RANGES * _RANGE)
                set_project_limit(fd, project, size)
                set_project(fd, project)
        finally:
            os.close(fd)


def _free_project(fd: int, first: int) -> int:
    """The lowest id from ``first`` on that no file has; a limit may be left from a layer before."""
    project = first
    while (used := next_project(fd, project)) and used.project == project and used.inodes:
        project += 1
    return project
