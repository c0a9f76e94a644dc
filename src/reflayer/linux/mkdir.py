"""mkdir(2) of a path whose parents may be absent too, however many they are."""

from __future__ import annotations

import errno
import os
from contextlib import suppress


def make_folders(path: str, mode: int = 0o777) -> None:
    """Make the folder ``path`` with ``mode`` where it is absent, and its parents.

    ``os.makedirs`` calls itself for each parent, and a path has room for two thousand.

    Raises:
        OSError: as mkdir(2) says. Nothing is made of a path that is too long.
    """
    absent: list[str] = []
    folder = path
    while folder and not _is_there(folder):
        absent.append(folder)
        folder = os.path.dirname(folder.rstrip("/"))
    for folder in reversed(absent):
        with suppress(FileExistsError):  # another process makes it as well
            os.mkdir(folder, mode if folder is path else 0o777)
    if not os.path.isdir(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True
