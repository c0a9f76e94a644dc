"""How much can be written where a size is kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_MIB = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)  # XFS tells a project's end as that of the disk


def writable(path: str | Path) -> int:
    """How many MiB can be written into the folder, up to 64."""
    with open(f"{path}/written", "wb", buffering=0) as file:
        for count in range(64):
            try:
                file.write(os.urandom(_MIB))
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in FULL:
                    raise
                return count
    return 64
