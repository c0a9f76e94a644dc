"""Mounts that show other owners than the files have (mount_setattr(2), MOUNT_ATTR_IDMAP)."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress

from reflayer.linux.libc import LIBC, checked
from reflayer.linux.user_namespace import NamespaceError, with_one_id

# The numbers are the same on every architecture (asm-generic/unistd.h).
_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442
_OPEN_TREE_CLONE = 1
_AT_EMPTY_PATH = 0x1000
_MOUNT_ATTR = struct.Struct("=4Q")  # linux/mount.h: struct mount_attr
_MOUNT_ATTR_IDMAP = 0x00100000


def can_map_ids(folder: str) -> bool:
    """Whether the file system that ``folder`` is on can be mounted with other owners.

    It is tried, on a mount that is nowhere. It takes root of the machine, and a process of one
    thread.
    """
    with suppress(OSError, NamespaceError), with_one_id() as namespace:
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
        path = ctypes.c_char_p(os.fsencode(folder))
        mount = checked(LIBC.syscall(_SYS_OPEN_TREE, ctypes.c_int(-1), path, ctypes.c_uint(flags)))
        try:
            attributes = _MOUNT_ATTR.pack(_MOUNT_ATTR_IDMAP, 0, 0, namespace)
            checked(
                LIBC.syscall(
                    _SYS_MOUNT_SETATTR,
                    ctypes.c_int(mount),
                    ctypes.c_char_p(b""),
                    ctypes.c_uint(_AT_EMPTY_PATH),
                    ctypes.create_string_buffer(attributes, _MOUNT_ATTR.size),
                    ctypes.c_size_t(_MOUNT_ATTR.size),
                )
            )
        finally:
            os.close(mount)
        return True
    return False
