"""Whether an entry of a tree is what it was before, as Docker's diff looks at it, and closer."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.linux.fiemap import share_all_data
from reflayer.walk.facts import list_attributes, read_attributes, read_attributes_at
from reflayer.walk.folders import OPEN_FILE, open_noatime

_BLOCK = 1 << 20
_NO_MAP = frozenset({errno.EOPNOTSUPP, errno.ENOTTY})


def is_same_status(now: os.stat_result, before: os.stat_result) -> bool:
    """Whether type, mode, owner, time and, but for folders, size and device are the same."""
    return (
        now.st_mtime_ns == before.st_mtime_ns
        and now.st_mode == before.st_mode
        and (stat.S_ISDIR(now.st_mode) or now.st_size == before.st_size)
        and now.st_uid == before.st_uid
        and now.st_gid == before.st_gid
        and now.st_rdev == before.st_rdev
    )


def is_same_inode(now: os.stat_result, before: os.stat_result) -> bool:
    """Whether both are one inode in one state, if not of one subvolume: as in a btrfs snapshot.

    Whatever changes an inode changes its ctime, and nobody can set that (inode(7)).
    """
    return now.st_ino == before.st_ino and now.st_ctime_ns == before.st_ctime_ns


def is_same_folder(new: int, old: int) -> bool:
    """Whether two open folders of the same status have the same attributes."""
    return _attributes(new) == _attributes(old)


def is_same_entry(
    name: bytes, new: int, old: int, now: os.stat_result, before: os.stat_result
) -> bool:
    """Whether ``name`` of the same status in two open folders, and no folder, is the same.

    Content is compared where not both lie in the same place.

    Raises:
        OSError: one of them cannot be read.
        FailedError: its attributes cannot (that of ``reflayer.walk.facts``).
    """
    if stat.S_ISREG(now.st_mode) and now.st_size:
        return _is_same_file(name, new, old, now, before)
    if stat.S_ISLNK(now.st_mode) and os.readlink(name, dir_fd=new) != os.readlink(name, dir_fd=old):
        return False
    return read_attributes_at(new, name) == read_attributes_at(old, name)


def _is_same_file(
    name: bytes, new: int, old: int, now: os.stat_result, before: os.stat_result
) -> bool:
    one = open_noatime(name, new, OPEN_FILE)
    try:
        other = open_noatime(name, old, OPEN_FILE)
        try:
            if _attributes(one) != _attributes(other):
                return False
            # On btrfs each subvolume has a device number, and places are told for all together.
            if now.st_dev == before.st_dev and _lie_together(one, other):
                return True
            return _has_same_bytes(one, other)
        finally:
            os.close(other)
    finally:
        os.close(one)


def _lie_together(one: int, other: int) -> bool:
    try:
        return share_all_data(one, other)
    except OSError as error:
        if error.errno in _NO_MAP:
            return False
        raise


def _has_same_bytes(one: int, other: int) -> bool:
    offset = 0
    while True:
        block = os.pread(one, _BLOCK, offset)
        if block != os.pread(other, _BLOCK, offset):
            return False
        if not block:
            return True
        offset += len(block)


def _attributes(fd: int) -> dict[str, bytes]:
    return read_attributes(fd, list_attributes(fd))
