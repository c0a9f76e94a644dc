"""Mount points inside a source tree: where a copy stops unless it is asked to cross."""

from __future__ import annotations

import errno
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.folder import Folder
    from reflayer.copy.job import Job

_ESCAPE = re.compile(rb"\\([0-7]{3})")  # proc_pid_mountinfo(5): space, tab, newline, backslash
_MOUNT_POINT = 4  # which field, from 0
_NO_OPENAT2 = frozenset(
    {errno.ENOSYS, errno.EPERM}
)  # before Linux 5.6; under an old seccomp filter


def mounts_below(fd: int) -> frozenset[bytes]:
    """The mount points below the open folder ``fd``, as paths from it; empty without proc(5).

    Some may be hidden below another mount: ``is_mount_point`` tells.

    Raises:
        OSError: the folder's path is too long for proc(5).
    """
    try:
        root = os.readlink(b"/proc/self/fd/%d" % fd)
        with open("/proc/self/mountinfo", "rb") as table:
            points = [line.split(b" ")[_MOUNT_POINT] for line in table]
    except FileNotFoundError:
        return frozenset()
    prefix = root.rstrip(b"/") + b"/"
    unescaped = (_ESCAPE.sub(lambda m: bytes([int(m[1], 8)]), point) for point in points)
    return frozenset(p[len(prefix) :] for p in unescaped if p.startswith(prefix) and p != prefix)


def is_mount_point(job: Job, folder: Folder, name: str) -> bool:
    """Whether something is mounted on ``name`` in ``folder``.

    For names that mount points have, and folders whose st_dev differs from their parent's: on btrfs
    a subvolume has its own, too.
    """
    try:
        from reflayer.linux.openat2 import RESOLVE_NO_XDEV, openat2

        flags = os.O_PATH | os.O_NOFOLLOW
        os.close(openat2(folder.src, os.fsencode(name), flags, RESOLVE_NO_XDEV))
    except ImportError:  # no ctypes
        return folder.relative(name) in job.mounts
    except OSError as error:
        if error.errno in _NO_OPENAT2:
            return folder.relative(name) in job.mounts
        if error.errno == errno.EXDEV:
            return True
        raise
    return False
