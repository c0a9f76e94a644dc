"""Claims on names in a folder: whoever holds one is alive, and alone may touch what is so called.

A claim is a lock file beside the name, ``NAME.lock``, under flock(2): the kernel lets go of it when
its process ends, however it ends. It is made, once, before what it protects and unlinked after it,
both while it is locked, so a name without a lock file is nobody's. NFS keeps flock(2) as a lock of
the whole process that any close of the file drops (nfs(5)); so a process never opens a lock file
that it holds already.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os

from reflayer.errors import OperationError

LOCK = ".lock"
"""What follows a name in the name of its lock file."""

_held: set[str] = set()
_mutex = _thread.allocate_lock()  # of _held; threading would cost a small program its import


class Claim:
    """A name that this process alone may make, fill, move or delete."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str, fd: int) -> None:
        """Take over the locked lock file ``path``, open as ``fd``."""
        self._path = path
        self._fd = fd

    def release(self) -> None:
        """Let go of the name, when nothing is left that is so called.

        Raises:
            OperationError: the lock file cannot be unlinked; it is let go of all the same.
        """
        try:
            os.unlink(self._path)
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(self._path), "unlink") from error
        finally:
            os.close(self._fd)
            _held.discard(self._path)


def claim_new(path: str) -> Claim | None:
    """Claim the name ``path``, which nobody has had before; None where that failed.

    A lock file that has gone is not made again under its name: a sweep that saw it may take what is
    so called for nobody's at any later time.

    Raises:
        OperationError: the lock file cannot be made or locked.
    """
    try:
        return _claim(path + LOCK, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return None


def claim_turn(path: str) -> Claim | None:
    """Claim the name ``path``, which stands for no file, but for a turn that others take, too.

    Raises:
        OperationError: the lock file cannot be made or locked.
    """
    return _claim(path + LOCK, os.O_CREAT)


def claim_left(path: str) -> Claim | None:
    """Claim the name ``path`` of somebody who has died; None where he is alive.

    Raises:
        FileNotFoundError: there is no lock file.
        OperationError: it cannot be opened or locked.
    """
    return _claim(path + LOCK, 0)


def _claim(path: str, flag: int) -> Claim | None:
    with _mutex:
        if path in _held:
            return None
        _held.add(path)
    fd = None
    try:
        fd = _lock(path, flag)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "lock") from error
    finally:
        if fd is None:
            _held.discard(path)
    return None if fd is None else Claim(path, fd)


def _lock(path: str, flag: int) -> int | None:
    """Open and lock the file ``path``; None where somebody else has locked it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flag, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(path, fd):
                return fd
        except OSError as error:
            os.close(fd)
            if error.errno == errno.EWOULDBLOCK:
                return None
            raise
        os.close(fd)  # its holder unlinked it while we were opening it
        if flag & os.O_EXCL:
            return None


def _is_there(path: str, fd: int) -> bool:
    status = os.fstat(fd)
    try:
        return status.st_nlink > 0 and os.path.samestat(status, os.stat(path))
    except FileNotFoundError:
        return False
