"""ioctl_ficlone(2): one file shares all its blocks with another."""

from __future__ import annotations

import fcntl

FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h


def ficlone(dst_fd: int, src_fd: int) -> None:
    """Make ``dst_fd`` (open for writing) share all blocks of ``src_fd`` (open for reading).

    Raises:
        OSError: EOPNOTSUPP or ENOTTY when the file system cannot, EXDEV across file systems,
            EINVAL when these two files cannot; otherwise as ioctl_ficlone(2) says.
    """
    fcntl.ioctl(dst_fd, FICLONE, src_fd)
