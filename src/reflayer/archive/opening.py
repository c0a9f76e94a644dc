"""Folders that plain open(2) does not open: without permission bits, or at the end of any path."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
LONGEST_PATH = 4095  # bytes that a system call takes: limits.h, PATH_MAX
_NAME_ITSELF = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_shut(name: bytes, dir_fd: int | None = None) -> int:
    """Open the folder ``name`` although it lacks the permission bits for it, if it is ours.

    Raises:
        PermissionError: it is not.
    """
    named = os.open(name, _NAME_ITSELF, dir_fd=dir_fd)
    try:
        itself = f"/proc/self/fd/{named}"
        mode = stat.S_IMODE(os.fstat(named).st_mode)
        os.chmod(itself, mode | 0o700)
        try:
            return os.open(itself, OPEN)
        finally:
            os.chmod(itself, mode)
    finally:
        os.close(named)


def open_straight(top: int, path: bytes) -> int:
    """Open the folder at ``path`` of any length beneath ``top``, with no link on the way."""
    fd = os.dup(top)
    while path:
        cut = len(path)
        if cut > LONGEST_PATH:
            cut = path.rindex(b"/", 0, LONGEST_PATH)
        try:
            below = openat2(fd, path[:cut], OPEN, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        finally:
            os.close(fd)
        fd, path = below, path[cut + 1 :]
    return fd


def link_target(dir_fd: int, name: bytes) -> bytes | None:
    """Where the symbolic link ``name`` points; None where it is something else."""
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.EINVAL:  # readlink(2)
            return None
        raise
