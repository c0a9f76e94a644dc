"""renameat2(2), which Python lacks: two names that change places in one step."""

from __future__ import annotations

import ctypes
import os

from reflayer.linux.libc import LIBC, checked

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: str, other: str) -> None:
    """Let what is at each of two paths, on one file system, be at the other.

    Raises:
        OSError: as renameat2(2) says; EINVAL where the file system cannot.
    """
    checked(
        LIBC.renameat2(
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(os.fsencode(one)),
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(os.fsencode(other)),
            ctypes.c_uint(_RENAME_EXCHANGE),
        )
    )
