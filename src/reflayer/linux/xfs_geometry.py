"""XFS_IOC_FSGEOMETRY: how an XFS was made (ioctl_xfs_fsgeometry(2))."""

from __future__ import annotations

import fcntl
import struct

_FSGEOMETRY_V1 = 0x80705864  # _IOR('X', 100, struct xfs_fsop_geom_v1)
_SIZE = 112  # bytes of that structure
_INODESIZE = struct.Struct("=24xI")  # after blocksize, rtextsize, agblocks, ... sectsize


def inode_size(fd: int) -> int:
    """Bytes that an inode takes on the XFS that ``fd`` is on.

    Raises:
        OSError: ENOTTY where it is on another file system.
    """
    answer = fcntl.ioctl(fd, _FSGEOMETRY_V1, bytes(_SIZE))
    return int(_INODESIZE.unpack_from(answer)[0])
