"""How much a layer may take: the folder is a project of its own, and the file system sees to it.

Docker's vfs driver does the same. All in the folder counts, what the clone brought and shares with
its parent too.
"""

from __future__ import annotations

import errno
import os
import re

from reflayer.driver.home import QUOTA_LOCK, opened
from reflayer.errors import QuotaError, failing, printable
from reflayer.linux.project_quota import (
    NOT_HERE,
    ProjectUse,
    enforces_project_quotas,
    next_project,
    project_of,
    set_project,
    set_project_limit,
)
from reflayer.workers.lock import locked

_FIRST = 1 << 24  # the projects of others have low ids: those of /etc/projid, Docker's own
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.IGNORECASE | re.ASCII)
_LONGEST_SIZE = 100  # characters; int() takes 4,300, and float() makes infinity of 309
_POWERS = " kmgtp"
_MOST = (1 << 63) - 1  # Docker keeps it in an int64
_RANGES, _RANGE = 1 << 12, 1 << 16  # so that two homes on one file system hardly meet


def size_in_bytes(text: str) -> int:
    """``1G``, ``512 MiB``, ``1.5gb`` or plain bytes, in powers of 1024, as Docker's RAMInBytes.

    Raises:
        QuotaError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > _LONGEST_SIZE:
        raise QuotaError(f"invalid size: {printable(text[:_LONGEST_SIZE])!r}: say 10G or 512M")
    number, unit = match[1], match[2].lower()
    scale = 1024 ** _POWERS.index(unit) if unit else 1
    size = int(number) * scale if number.isdecimal() else int(float(number) * scale)
    if size > _MOST:
        raise QuotaError(f"invalid size: {text!r} is more than {_MOST} bytes")
    return size


def require_quota(folder: str) -> None:
    """Make sure that quotas can be set in ``folder``, or raise ``QuotaError``."""
    with opened(folder, follow=True) as fd, failing(folder, "quotactl"):
        if not enforces_project_quotas(fd):
            raise QuotaError(
                "Filesystem does not support, or has not enabled quotas: a size needs "
                f"{folder} on XFS or ext4 mounted with prjquota"
            )
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


def use_of(path: str) -> ProjectUse | None:
    """What the layer at ``path`` takes of the size that it was given; None for one without a size.

    It is the file system's own count: it takes no longer for a large layer.
    """
    with opened(path) as fd, failing(path, "quotactl"):
        try:
            project = project_of(fd)
            if project.is_inherited and project.id >= _FIRST:
                use = next_project(fd, project.id)
                if use is not None and use.project == project.id and use.limit:
                    return use
        except OSError as error:
            if error.errno not in NOT_HERE | {errno.EPERM}:  # who may not ask has it counted
                raise
    return None


def _free_project(fd: int, first: int) -> int:
    """The lowest id from ``first`` on that no file has; a limit may be left from a layer before."""
    project = first
    while (used := next_project(fd, project)) and used.project == project and used.inodes:
        project += 1
    return project
