"""fchmodat2(2), which Linux had not before 6.6: the mode of a name, never of what it links to."""

from __future__ import annotations

import os

_NAMED = getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC


def chmod_at(dir_fd: int, name: str | bytes, mode: int) -> None:
    """Set the mode of ``name``, which is no symbolic link, in the open folder ``dir_fd``.

    Raises:
        OSError: as chmod(2) says; EOPNOTSUPP when it is a symbolic link.
    """
    # fchmodat(2) would follow a link; a descriptor that only names the inode cannot.
    fd = os.open(name, _NAMED, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
