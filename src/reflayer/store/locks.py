"""Locks between processes and threads: flock(2) on files of the store's folder."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager

from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def locked(path: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; wait for it first.

    Args:
        path: the lock file, made where it is absent; it stays.
        shared: hold it together with others who share it.

    Raises:
        OperationError: the file cannot be made or locked.
    """
    fd = _open(path)
    try:
        _flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, path)
        yield
    finally:
        os.close(fd)


@contextmanager
def locked_at_once(path: str) -> Iterator[bool]:
    """Hold the lock file ``path`` alone while the block runs, or tell that somebody else has it.

    Raises:
        OperationError: the file cannot be made or locked.
    """
    fd = _open(path)
    try:
        yield _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "open") from error


def _flock(fd: int, operation: int, path: str) -> bool:
    try:
        fcntl.flock(fd, operation)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise OperationError.from_os_error(error, os.fsencode(path), "flock") from error
    return True
