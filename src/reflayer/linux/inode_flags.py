"""What chattr(1) sets on an inode (ioctl_iflags(2), FS_IOC_FSGETXATTR of linux/fs.h)."""

from __future__ import annotations

import errno
import fcntl
import struct

_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16  # _IOR('f', 1, long), FS_IOC_GETFLAGS
_SETFLAGS = 0x40006602 | struct.calcsize("l") << 16  # _IOW('f', 2, long), FS_IOC_SETFLAGS
_FLAGS = struct.Struct("l")
_GET_MORE = 0x801C581F  # _IOR('X', 31, struct fsxattr)
_MORE = struct.Struct("=IIIII8x")  # flags, extent size, extents, project, extent size of copies

NOCOW = 0x00800000
"""What is written to the file is overwritten in place (FS_NOCOW_FL)."""
_SHUT = 0x30  # FS_IMMUTABLE_FL, FS_APPEND_FL
# Those that a user sets: not how the file system keeps the inode, nor FS_TOPDIR_FL.
_SETTABLE = 0x6291CCFF
_MORE_SETTABLE = 0x17D01  # where GETFLAGS has no word for it: XFS's own
_NONE = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

Flags = tuple[int, int, int, int, int]


def inode_flags(fd: int) -> Flags:
    """What was set on an open file or folder; all 0 where the file system has nothing of it."""
    try:
        flags = _FLAGS.unpack(fcntl.ioctl(fd, _GETFLAGS, bytes(_FLAGS.size)))[0] & _SETTABLE
    except OSError as error:
        if error.errno not in _NONE:
            raise
        flags = 0
    try:
        more, size, _, project, copies = _MORE.unpack(fcntl.ioctl(fd, _GET_MORE, bytes(_MORE.size)))
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return flags, 0, 0, 0, 0
    return flags, more & _MORE_SETTABLE, project, size, copies


def change_flags(fd: int, *, add: int = 0, remove: int = _SETTABLE) -> None:
    """Take the flags ``remove``, and then ``add`` some; by default all that a user sets are taken.

    Raises:
        OSError: ENOTTY or EOPNOTSUPP where the file system has no such flags.
    """
    flags = _FLAGS.unpack(fcntl.ioctl(fd, _GETFLAGS, bytes(_FLAGS.size)))[0]
    fcntl.ioctl(fd, _SETFLAGS, _FLAGS.pack(flags & ~remove | add))


def unshut(fd: int) -> None:
    """Let an open file or folder be changed and unlinked again (chattr(1): a, i)."""
    change_flags(fd, remove=_SHUT)
