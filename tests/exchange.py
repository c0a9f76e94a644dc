"""Two names exchanged at once: renameat2(2) with RENAME_EXCHANGE."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from reflayer.linux.libc import LIBC, checked

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> None:
    """Let each of two paths be what the other was."""
    paths = (ctypes.c_char_p(os.fsencode(path)) for path in (one, other))
    first, second = paths
    checked(LIBC.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, ctypes.c_uint(_RENAME_EXCHANGE)))
