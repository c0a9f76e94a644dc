"""What is mounted inside a tree: where a walk stops unless it is asked to cross."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.errors import OperationError
from reflayer.linux.openat2 import RESOLVE_NO_XDEV, openat2

IS_MOUNTED = "a file system is mounted there: unmount it"

# proc_pid_mountinfo(5)
_ESCAPED = {b"\\040": b" ", b"\\011": b"\t", b"\\012": b"\n", b"\\134": b"\\"}
_MOUNT_POINT = 4  # which field, from 0
NO_OPENAT2 = frozenset({errno.ENOSYS, errno.EPERM})
"""What openat2(2) answers before Linux 5.6, and under an old seccomp filter."""


def mounts_below(*folders: int) -> list[frozenset[bytes]]:
    """The mount points below each open folder, as paths from it; none without proc(5).

    Some may be hidden below another mount: ``is_mounted`` tells.

    Raises:
        OSError: a folder's path is too long for proc(5).
    """
    try:
        roots = [os.readlink(b"/proc/self/fd/%d" % fd) for fd in folders]
        with open("/proc/self/mountinfo", "rb") as table:
            points = [_unescaped(line.split(b" ")[_MOUNT_POINT]) for line in table]
    except FileNotFoundError:
        return [frozenset() for _ in folders]
    prefixes = [root.rstrip(b"/") + b"/" for root in roots]
    return [
        frozenset(p[len(prefix) :] for p in points if p.startswith(prefix) and p != prefix)
        for prefix in prefixes
    ]


def _unescaped(point: bytes) -> bytes:
    for escaped, byte in _ESCAPED.items():  # the backslash last
        point = point.replace(escaped, byte)
    return point


def refuse_mounts(fd: int, path: bytes) -> None:
    """Refuse to remove the open folder ``fd``, called ``path``, with a mount in it.

    Raises:
        OperationError: EBUSY, with the mount point as its path.
    """
    for mount in sorted(mounts_below(fd)[0]):
        raise OperationError(os.path.join(path, mount), "remove", IS_MOUNTED, errno.EBUSY)


def refuse_mounts_at(name: bytes, path: bytes, folder: int | None = None) -> None:
    """``refuse_mounts`` for the folder ``name`` of the open ``folder``, if it exists."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        return
    try:
        refuse_mounts(fd, path)
    finally:
        os.close(fd)


def is_mounted(folder: int, name: str | bytes) -> bool | None:
    """Whether something is mounted on ``name`` in the open ``folder``; None: it cannot be told.

    What is mounted there is not asked: its server may be dead, or serve another user alone.
    """
    try:
        flags = os.O_PATH | os.O_NOFOLLOW
        os.close(openat2(folder, os.fsencode(name), flags, RESOLVE_NO_XDEV))
    except OSError as error:
        if error.errno in NO_OPENAT2:
            return None
        if error.errno == errno.EXDEV:
            return True
        raise
    return False


def status_at_mount(folder: int, name: str | bytes) -> os.stat_result:
    """The status for what stands in the place of the mount on ``name`` in the open ``folder``.

    It is that of what is mounted there. Where the mount does not answer, it is the folder's own,
    as of a file or folder with the usual mode, whichever the mount hides.
    """
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        above = os.fstat(folder)
        times = {n: getattr(above, n) for n in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")}
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            with os.scandir(here) as scan:
                is_folder = any(e.name == os.fsdecode(name) and e.is_dir() for e in scan)
        finally:
            os.close(here)
        mode = stat.S_IFDIR | 0o755 if is_folder else stat.S_IFREG | 0o644
        return os.stat_result((mode, *above[1:10]), times)
