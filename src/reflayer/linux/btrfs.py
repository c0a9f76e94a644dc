"""btrfs-ioctl(2): subvolumes, which are the layers on btrfs, and what compressed data takes.

The requests and structures are those of linux/btrfs.h and linux/btrfs_tree.h. A name is that of an
entry of an open folder. A file system other than btrfs answers each of them with ENOTTY.
"""

from __future__ import annotations

import fcntl
import os
import struct

SUBVOLUME_INODE = 256
"""The inode number of every subvolume's root (BTRFS_FIRST_FREE_OBJECTID)."""

_SUBVOL_CREATE = 0x5000940E  # _IOW(0x94, 14, struct btrfs_ioctl_vol_args)
_SNAP_DESTROY = 0x5000940F  # _IOW(0x94, 15, struct btrfs_ioctl_vol_args)
_SNAP_CREATE_V2 = 0x50009417  # _IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)
_SUBVOL_GETFLAGS = 0x80089419  # _IOR(0x94, 25, __u64)
_SUBVOL_SETFLAGS = 0x4008941A  # _IOW(0x94, 26, __u64)
_GET_SUBVOL_ROOTREF = 0xD000943D  # _IOWR(0x94, 61, struct btrfs_ioctl_get_subvol_rootref_args)

_VOL_ARGS = struct.Struct("=q4088s")  # fd, name
_VOL_ARGS_V2 = struct.Struct("=qQQ32x4040s")  # fd, transid, flags, unused, name
_ROOTREF_ARGS = 4096  # bytes: min_treeid, 255 pairs of treeid and dirid, num_items, align
_ROOTREF_COUNT = 8 + 255 * 16  # where num_items is

_TREE_SEARCH = 0xD0009411  # _IOWR(0x94, 17, struct btrfs_ioctl_search_args)
_SEARCH_ARGS = 4096  # bytes: the key, then room for items
# tree_id, {min,max}_{objectid,offset,transid}, {min,max}_type, nr_items
_SEARCH_KEY = struct.Struct("=7Q3I36x")
_SEARCH_ITEMS = struct.Struct("=64xI")  # nr_items in an answer
_SEARCH_HEADER = struct.Struct("=16xQ4xI")  # of an item: offset, len
# struct btrfs_file_extent_item: compression, type, disk_bytenr, disk_num_bytes
_FILE_EXTENT = struct.Struct("=16xB3xBQQ16x")
_EXTENT_DATA = 108  # the type of the items that say where a file's data is
_OWN_TREE = 0  # that of the subvolume which the open file is in
_INLINE = 0
_MOST = 2**64 - 1


def is_subvolume(fd: int) -> bool:
    """Whether the open folder ``fd`` is the root of a btrfs subvolume."""
    if os.fstat(fd).st_ino != SUBVOLUME_INODE:
        return False
    try:
        fcntl.ioctl(fd, _SUBVOL_GETFLAGS, bytes(8))
    except OSError:
        return False
    return True


def has_subvolumes(fd: int) -> bool:
    """Whether other subvolumes are inside the one that the open folder ``fd`` is in.

    Their number does not matter to the time that it takes, nor does the tree's size.

    Raises:
        OSError: ENOTTY before Linux 4.18, which cannot tell.
    """
    args = bytearray(_ROOTREF_ARGS)
    fcntl.ioctl(fd, _GET_SUBVOL_ROOTREF, args)
    return args[_ROOTREF_COUNT] > 0


def create_subvolume(folder: int, name: bytes) -> None:
    """Make the empty subvolume ``name``, owned, permitted and refused as mkdir(2) would."""
    fcntl.ioctl(folder, _SUBVOL_CREATE, bytearray(_VOL_ARGS.pack(0, name)))


def create_snapshot(source: int, folder: int, name: bytes) -> None:
    """Make ``name`` a writable snapshot of the subvolume whose root is open as ``source``.

    What was written to the source before is in it, and on disk with it.

    Raises:
        OSError: EINVAL when ``source`` is no subvolume's root, EXDEV when it is on another file
            system, EPERM when it belongs to another user.
    """
    args = bytearray(_VOL_ARGS_V2.pack(source, 0, 0, name))
    fcntl.ioctl(folder, _SNAP_CREATE_V2, args)


def destroy_subvolume(folder: int, name: bytes) -> None:
    """Take the subvolume ``name`` away with all in it; the kernel frees its blocks behind.

    Raises:
        OSError: EPERM without privilege, but for owners under the mount option
            user_subvol_rm_allowed; ENOTEMPTY when other subvolumes are inside; EINVAL when it is
            no subvolume.
    """
    fcntl.ioctl(folder, _SNAP_DESTROY, bytearray(_VOL_ARGS.pack(0, name)))


def allow_writing(fd: int) -> None:
    """Make the subvolume whose root is open as ``fd`` writable, if it is read-only.

    Raises:
        OSError: EINVAL when it is no subvolume's root, EPERM when it belongs to another user.
    """
    fcntl.ioctl(fd, _SUBVOL_SETFLAGS, bytes(8))


def compressed_extents(fd: int) -> list[tuple[int, int, int]]:
    """Where the compressed data of the open file ``fd`` is; for root only.

    FIEMAP does not tell how much of the disk it takes.

    Returns:
        Each extent's place in the file, place on the file system, and length there, all in bytes.

    Raises:
        OSError: EPERM for who may not know it, ENOTTY where it is not on btrfs.
    """
    inode = os.fstat(fd).st_ino
    found: list[tuple[int, int, int]] = []
    first = 0
    while True:
        args = bytearray(_SEARCH_ARGS)
        types = (_EXTENT_DATA, _EXTENT_DATA)
        _SEARCH_KEY.pack_into(
            args, 0, _OWN_TREE, inode, inode, first, _MOST, 0, _MOST, *types, 2**32 - 1
        )
        fcntl.ioctl(fd, _TREE_SEARCH, args)
        (count,) = _SEARCH_ITEMS.unpack_from(args)
        if not count:
            return found
        at = _SEARCH_KEY.size
        for _ in range(count):
            offset, length = _SEARCH_HEADER.unpack_from(args, at)
            at += _SEARCH_HEADER.size
            if length >= _FILE_EXTENT.size:  # what lies inline may be shorter
                compression, kind, place, size = _FILE_EXTENT.unpack_from(args, at)
                if compression and kind != _INLINE:
                    found.append((offset, place, size))
            at += length
            first = offset + 1
