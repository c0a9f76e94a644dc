"""What is recorded has to be on disk: written out by the whole file system, not file by file."""

from __future__ import annotations

import os

from reflayer.errors import OperationError


def open_folder(path: str) -> int:
    """Open the folder ``path``.

    Open it before anything is written: syncfs(2) tells each open file the errors since then.

    Raises:
        OperationError: it cannot be opened.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "open") from error


def write_out(fd: int, path: str) -> None:
    """Write out the file system of the open folder ``fd``; ``path`` is for the error.

    Raises:
        OperationError: something could not be written.
    """
    from reflayer.linux.syncfs import syncfs

    try:
        syncfs(fd)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "syncfs") from error


def write_name(folder: int, path: str) -> None:
    """Write out the name ``path``, which has just been made in the open ``folder``.

    Raises:
        OperationError: it could not be written.
    """
    try:
        os.fsync(folder)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "fsync") from error
