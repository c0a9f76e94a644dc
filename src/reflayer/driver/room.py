"""How much of the disk is to stay free: where less is, what is only there to save time goes.

That are spares and trees of differences. ``keep-free`` in the home is a link whose text is how much
it is, where somebody has said it.
"""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.driver.home import KEEP_FREE, naming, relink
from reflayer.errors import failing

_LEAST = 10  # percent


def keep_free(home: str) -> int:
    """How much of the disk, and of its inodes, is to stay free, in percent."""
    path = f"{home}/{KEEP_FREE}"
    with failing(path, "read"), suppress(FileNotFoundError, ValueError):
        return int(os.readlink(path))
    return _LEAST


def set_keep_free(home: str, percent: int) -> None:
    """Say how much it is, for every process that uses the home."""
    with naming(home):
        relink(f"{home}/{KEEP_FREE}", str(percent))


def is_short(home: str) -> bool:
    """Whether less is free."""
    least = keep_free(home)
    with failing(home, "statvfs"):
        free = os.statvfs(home)
    return free.f_bavail * 100 < free.f_blocks * least or free.f_favail * 100 < free.f_files * least
