"""FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR: the project that an inode's blocks count for.

xfsctl(3) and linux/fs.h.
"""

from __future__ import annotations

import fcntl
import struct
from typing import NamedTuple

_GET = 0x801C581F  # _IOR('X', 31, struct fsxattr)
_SET = 0x401C5820  # _IOW('X', 32, struct fsxattr)
_FSXATTR = struct.Struct("=IIIII8x")  # flags, extent size, extents, project, extent size of copies
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT


class Project(NamedTuple):
    """The project of a folder.

    Attributes:
        id: 0 for none.
        is_inherited: what is made in the folder belongs to it, too.
    """

    id: int
    is_inherited: bool


def project_of(fd: int) -> Project:
    """The project of an open folder.

    Raises:
        OSError: ENOTTY or EOPNOTSUPP where the file system has no projects.
    """
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
