"""Project quotas (xfsctl(3), quotactl(2)): what a folder's files may take; XFS, ext4 with prjquota.

A folder has a project (FS_IOC_FSGETXATTR, linux/fs.h), and a project has a limit: linux/dqblk_xfs.h
has the structures, linux/quota.h the numbers. quotactl_fd(2) came with Linux 5.14.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct
from typing import NamedTuple

from reflayer.linux.libc import LIBC, checked

_GET = 0x801C581F  # _IOR('X', 31, struct fsxattr)
_SET = 0x401C5820  # _IOW('X', 32, struct fsxattr)
_FSXATTR = struct.Struct("=IIIII8x")  # flags, extent size, extents, project, extent size of copies
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_SYS_QUOTACTL_FD = 443  # the same number on every architecture (asm-generic/unistd.h)
_PRJQUOTA = 2
_Q_XSETQLIM, _Q_XGETQSTAT, _Q_XGETNEXTQUOTA = 0x5804, 0x5805, 0x5809
_STAT_SIZE = 128  # bytes: more than struct fs_quota_stat has
_STAT_FLAGS = struct.Struct("=2xH")
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
# version, flags, fieldmask, id, hard and soft limits of blocks and inodes, blocks and inodes used
_QUOTA = struct.Struct("=bbHI4Q2Q48x")
_VERSION, _PROJECT, _BLOCKS_HARD = 1, 1 << 1, 1 << 3
_UNIT = 512  # bytes
NOT_HERE = frozenset(
    {errno.ENOSYS, errno.ESRCH, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOTBLK}
)
"""Error numbers of a file system or kernel without project quotas."""


class Project(NamedTuple):
    """The project of a folder.

    Attributes:
        id: 0 for none.
        is_inherited: what is made in the folder belongs to it, too.
    """

    id: int
    is_inherited: bool


class ProjectUse(NamedTuple):
    """What the files of a project take.

    Attributes:
        project: its id.
        limit: bytes that they may take; 0 for any number.
        bytes: that they take.
        inodes: how many there are.
    """

    project: int
    limit: int
    bytes: int
    inodes: int


def project_of(fd: int) -> Project:
    """The project of an open folder; ENOTTY or EOPNOTSUPP without projects there."""
    flags, _, _, project, _ = _FSXATTR.unpack(fcntl.ioctl(fd, _GET, bytes(_FSXATTR.size)))
    return Project(project, bool(flags & _INHERIT))


def set_project(fd: int, project: int) -> None:
    """Let an open folder, and whatever will be made in it, belong to ``project``.

    Raises:
        OSError: EPERM outside the first user namespace or for who does not own it.
    """
    state = bytearray(fcntl.ioctl(fd, _GET, bytes(_FSXATTR.size)))
    flags, extent_size, extents, _, copies = _FSXATTR.unpack(state)
    _FSXATTR.pack_into(state, 0, flags | _INHERIT, extent_size, extents, project, copies)
    fcntl.ioctl(fd, _SET, state)


def enforces_project_quotas(fd: int) -> bool:
    """Whether the file system that ``fd`` is on keeps projects within their limits."""
    answer = ctypes.create_string_buffer(_STAT_SIZE)
    try:
        _quotactl(fd, _Q_XGETQSTAT, 0, answer)
    except OSError as error:
        if error.errno in NOT_HERE:
            return False
        raise
    return bool(_STAT_FLAGS.unpack_from(answer)[0] & _ENFORCED)


def set_project_limit(fd: int, project: int, limit: int) -> None:
    """Let the files of ``project`` take ``limit`` bytes, rounded up to 512; 0 for any number.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN; ESRCH when quotas are off.
    """
    units = -(-limit // _UNIT)
    quota = _QUOTA.pack(_VERSION, _PROJECT, _BLOCKS_HARD, project, units, 0, 0, 0, 0, 0)
    _quotactl(fd, _Q_XSETQLIM, project, ctypes.create_string_buffer(quota, _QUOTA.size))


def next_project(fd: int, first: int) -> ProjectUse | None:
    """The project with the lowest id from ``first`` on that has a limit or files; None for none.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN; ESRCH when quotas are off.
    """
    answer = ctypes.create_string_buffer(_QUOTA.size)
    try:
        _quotactl(fd, _Q_XGETNEXTQUOTA, first, answer)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    _, _, _, project, limit, _, _, _, used, inodes = _QUOTA.unpack(answer.raw)
    return ProjectUse(project, limit * _UNIT, used * _UNIT, inodes)


def _quotactl(fd: int, command: int, id: int, address: ctypes.Array[ctypes.c_char]) -> None:
    checked(
        LIBC.syscall(
            ctypes.c_long(_SYS_QUOTACTL_FD),
            ctypes.c_uint(fd),
            ctypes.c_uint(command << 8 | _PRJQUOTA),
            ctypes.c_uint(id),
            address,
        )
    )
