"""FS_IOC_FIEMAP: where on its file system a file's data lies.

Documentation/filesystems/fiemap.rst and linux/fiemap.h of the kernel.
"""

from __future__ import annotations

import fcntl
import struct

_FS_IOC_FIEMAP = 0xC020660B  # _IOWR('f', 11, struct fiemap)
_SYNC = 0x1  # write first what is not written: until then the map may be the one before
_HEADER = struct.Struct("=QQIIII")  # start, length, flags, mapped_extents, extent_count, reserved
_EXTENT = struct.Struct("=QQQ16xI12x")  # logical, physical, length, flags
_MOST = 17  # extents in one answer: ioctl takes no more than 1,024 bytes without a copy
_ROOM = bytes(_MOST * _EXTENT.size)
_TO_THE_END = 2**64 - 1
_LAST = 0x1
UNKNOWN = 0x2
"""An extent's flag: the place is not known, as with what is not written yet."""
ENCODED = 0x8
"""The data is compressed: the place is that of all of it, the length that of what it holds."""
INLINE = 0x200
"""The data lies among metadata, and has no blocks of its own."""
SHARED = 0x2000
"""Other files, or other parts of this one, have the same blocks."""
# What keeps two extents of one place from being the same bytes: UNKNOWN, DELALLOC, ENCODED (two
# parts of one compressed extent are told alike), DATA_ENCRYPTED, NOT_ALIGNED, DATA_INLINE and
# DATA_TAIL.
_NOT_TOLD = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200 | 0x400
_WHOLE = _HEADER.pack(0, _TO_THE_END, _SYNC, 0, _MOST, 0) + _ROOM


def extents(fd: int) -> list[tuple[int, int, int, int]]:
    """Where the data of the open file ``fd`` is, what it holds beyond its end included.

    What is not written yet is written first, since until then it has no place.

    Returns:
        Each extent's place in the file, place on the file system, length, all in bytes, and flags
        (``SHARED``, ...).

    Raises:
        OSError: EOPNOTSUPP or ENOTTY where the file system cannot tell; EIO, ENOSPC, ... when what
            is not written yet could not be written.
    """
    found: list[tuple[int, int, int, int]] = []
    request = _WHOLE
    while True:
        answer = fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
        count = _HEADER.unpack_from(answer)[3]
        if count == 1 and not found:  # as with most files
            return [_EXTENT.unpack_from(answer, _HEADER.size)]
        found += _EXTENT.iter_unpack(answer[_HEADER.size : _HEADER.size + count * _EXTENT.size])
        if count < _MOST or found[-1][3] & _LAST:
            return found
        end = found[-1][0] + found[-1][2]
        request = _HEADER.pack(end, _TO_THE_END - end, _SYNC, 0, _MOST, 0) + _ROOM


def share_all_data(one: int, other: int) -> bool:
    """Whether every byte of two open files of the same size lies in the same place.

    They must be on one file system. False says nothing: the bytes may be the same all the same.

    Raises:
        OSError: EOPNOTSUPP or ENOTTY where the file system cannot tell, EIO, ENOSPC, ... when what
            is not written yet could not be written.
    """
    request = _WHOLE
    while True:
        answer = fcntl.ioctl(one, _FS_IOC_FIEMAP, request)
        if fcntl.ioctl(other, _FS_IOC_FIEMAP, request) != answer:
            return False
        count = _HEADER.unpack_from(answer)[3]
        if count == 0:  # nothing but a hole, from here to the end
            return True
        end = flags = 0
        for place in range(_HEADER.size, _HEADER.size + count * _EXTENT.size, _EXTENT.size):
            logical, _, length, flags = _EXTENT.unpack_from(answer, place)
            if flags & _NOT_TOLD:
                return False
            end = logical + length
        if flags & _LAST or count < _MOST:
            return True
        request = _HEADER.pack(end, _TO_THE_END - end, _SYNC, 0, _MOST, 0) + _ROOM
