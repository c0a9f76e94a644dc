"""kcmp(2): whether two processes or threads share something."""

from __future__ import annotations

import ctypes
import os

from reflayer.linux.libc import LIBC

_NUMBER = 312 if os.uname().machine == "x86_64" else 272  # asm-generic/unistd.h
FILES, FS = 2, 3
"""The table of open files; root, current folder and umask."""


def share(one: int, other: int, what: int) -> bool:
    """Whether two threads share ``what``; False too where that cannot be told."""
    return bool(LIBC.syscall(*map(ctypes.c_long, (_NUMBER, one, other, what, 0, 0))) == 0)
