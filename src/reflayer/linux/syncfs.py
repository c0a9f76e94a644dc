"""syncfs(2): write out everything of one file system."""

from __future__ import annotations

import ctypes

from reflayer.linux.libc import LIBC, checked


def syncfs(fd: int) -> None:
    """Write out the file system that ``fd`` is on and wait for it.

    Raises:
        OSError: EIO, ENOSPC or EDQUOT when a page could not be written (Linux 5.8 and later
            report it; earlier kernels stay silent), as syncfs(2) says.
    """
    checked(LIBC.syncfs(ctypes.c_int(fd)))
