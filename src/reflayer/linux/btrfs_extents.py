"""BTRFS_IOC_TREE_SEARCH: how much of the disk the compressed extents of a file take.

FIEMAP does not tell that. The structures are those of linux/btrfs.h and linux/btrfs_tree.h.
"""

from __future__ import annotations

import fcntl
import os
import struct

_TREE_SEARCH = 0xD0009411  # _IOWR(0x94, 17, struct btrfs_ioctl_search_args)
_ARGS = 4096  # bytes: the key, then room for items
# tree_id, {min,max}_{objectid,offset,transid}, {min,max}_type, nr_items
_KEY = struct.Struct("=7Q3I36x")
_ITEMS = struct.Struct("=64xI")  # nr_items in an answer
_HEADER = struct.Struct("=16xQ4xI")  # of an item: offset, len
# struct btrfs_file_extent_item: compression, type, disk_bytenr, disk_num_bytes
_EXTENT = struct.Struct("=16xB3xBQQ16x")
_EXTENT_DATA = 108  # the type of the items that say where a file's data is
_OWN_TREE = 0  # that of the subvolume which the open file is in
_INLINE = 0
_MOST = 2**64 - 1


def compressed_extents(fd: int) -> list[tuple[int, int, int]]:
    """Where the compressed data of the open file ``fd`` is; for root only.

    Returns:
        Each extent's place in the file, place on the file system, and length there, all in bytes.

    Raises:
        OSError: EPERM for who may not know it, ENOTTY where it is not on btrfs.
    """
    inode = os.fstat(fd).st_ino
    found: list[tuple[int, int, int]] = []
    first = 0
    while True:
        args = bytearray(_ARGS)
        types = (_EXTENT_DATA, _EXTENT_DATA)
        _KEY.pack_into(args, 0, _OWN_TREE, inode, inode, first, _MOST, 0, _MOST, *types, 2**32 - 1)
        fcntl.ioctl(fd, _TREE_SEARCH, args)
        (count,) = _ITEMS.unpack_from(args)
        if not count:
            return found
        at = _KEY.size
        for _ in range(count):
            offset, length = _HEADER.unpack_from(args, at)
            at += _HEADER.size
            if length >= _EXTENT.size:  # what lies inline may be shorter
                compression, kind, place, size = _EXTENT.unpack_from(args, at)
                if compression and kind != _INLINE:
                    found.append((offset, place, size))
            at += length
            first = offset + 1
