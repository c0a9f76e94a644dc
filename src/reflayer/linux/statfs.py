"""statfs(2): the type of the file system that a file is on, which ``os.statvfs`` leaves out.

And of XFS, how large its inodes are (ioctl_xfs_fsgeometry(2)).
"""

from __future__ import annotations

import ctypes
import fcntl
import struct

from reflayer.linux.libc import LIBC, checked

_STRUCT = 256  # bytes: more than struct statfs has on any architecture
_NAMES = {  # linux/magic.h and each file system's own header
    0x9123683E: "btrfs",
    0x58465342: "xfs",
    0xEF53: "ext4",  # ext2 and ext3, too
    0x01021994: "tmpfs",
    0x6969: "nfs",
    0x2FC12FC1: "zfs",
    0xCA451A4E: "bcachefs",
    0x794C7630: "overlayfs",
    0x65735546: "fuse",
    0xF2F52010: "f2fs",
    0x858458F6: "ramfs",
    0x00C36400: "ceph",
    0x01021997: "9p",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0x3434: "nilfs2",
    0x3153464A: "jfs",
    0xF15F: "ecryptfs",
    0x4D44: "vfat",
    0x2011BAB0: "exfat",
    0x7366746E: "ntfs3",
    0xE0F5E1E2: "erofs",
    0x73717368: "squashfs",
}

_FSGEOMETRY_V1 = 0x80705864  # _IOR('X', 100, struct xfs_fsop_geom_v1)
_GEOMETRY = 112  # bytes of that structure
_INODESIZE = struct.Struct("=24xI")  # after blocksize, rtextsize, agblocks, ... sectsize


def file_system_name(fd: int) -> str:
    """The name of the type of the file system that ``fd`` is on; its number if it has none here."""
    buffer = ctypes.create_string_buffer(_STRUCT)
    checked(LIBC.fstatfs(ctypes.c_int(fd), buffer))
    magic = ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF  # f_type comes first
    return _NAMES.get(magic, f"{magic:#x}")


def xfs_inode_size(fd: int) -> int:
    """Bytes that an inode takes on the XFS that ``fd`` is on; ENOTTY on another file system."""
    answer = fcntl.ioctl(fd, _FSGEOMETRY_V1, bytes(_GEOMETRY))
    return int(_INODESIZE.unpack_from(answer)[0])
