"""The C library, and the one way its failures become ``OSError``."""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int, name: str = "") -> int:
    """Return ``result`` of a C call that reports failure as -1.

    Raises:
        OSError: with the thread's errno (errno(3)) when ``result`` is -1.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name or None)
    return result
