"""renameat2(2): a rename that refuses to replace."""

from __future__ import annotations

import ctypes

from reflayer.linux.libc import LIBC, checked

RENAME_NOREPLACE = 1


def renameat2(
    old_dir_fd: int, old_name: bytes, new_dir_fd: int, new_name: bytes, flags: int
) -> None:
    """Rename ``old_name`` in one folder to ``new_name`` in another, under ``flags``.

    Raises:
        OSError: EEXIST when RENAME_NOREPLACE meets an existing name, EINVAL when the file system
            does not know the flag; otherwise as renameat2(2) says.
    """
    checked(
        LIBC.renameat2(
            ctypes.c_int(old_dir_fd),
            ctypes.c_char_p(old_name),
            ctypes.c_int(new_dir_fd),
            ctypes.c_char_p(new_name),
            ctypes.c_uint(flags),
        )
    )
