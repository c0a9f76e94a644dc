"""How much a layer may take: the folder is a project of its own, and the file system sees to it.

Docker's vfs driver does the same. All in the folder counts, what the clone brought and shares with
its parent too.
"""

from __future__ import annotations

import os

from reflayer.driver.home import QUOTA_LOCK, opened
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
    """Make sure that quotas can be set in ``folder``, or raise ``QuotaError``."""
    with opened(folder, follow=True) as fd, failing(folder, "quotactl"):
        if not enforces_project_quotas(fd):
            raise QuotaError("Filesystem does not support, or has not enabled quotas")
        project = project_of(fd)
    if project.is_inherited:
        # rename(2) would refuse to move a layer with a project of its own in or out.
        raise QuotaError(
            f"{folder} belongs to project {project.id} with all that is made in it, so no layer in "
            "it can have a quota of its own"
        )


def set_quota(path: str, size: int, home: str) -> None:
    """Let all that will be made in the empty folder ``path`` take ``size`` bytes at the most."""
    # The lock is held until the folder has the project, so that no other takes it for free.
    with opened(path) as fd, failing(path, "set its quota"), locked(f"{home}/{QUOTA_LOCK}"):
        project = _free_project(fd, _FIRST + os.stat(home).st_ino % _RANGES * _RANGE)
        set_project_limit(fd, project, size)
        set_project(fd, project)


def _free_project(fd: int, first: int) -> int:
    """The lowest id from ``first`` on that no file has; a limit may be left from a layer before."""
    project = first
    while (used := next_project(fd, project)) and used.project == project and used.inodes:
        project += 1
    return project
