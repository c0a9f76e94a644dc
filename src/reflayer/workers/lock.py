"""Locks between processes and threads (flock(2)): the kernel lets go when the holder dies.

``locked`` holds a lock file. A ``Claim`` is for what is half made while its maker may die: a lock
file beside a name, ``NAME.lock``, made before what is so called and unlinked after it, both while
it is locked. So a name whose lock can be had, or that has no lock file, is abandoned.

A claim can also be the mark of what is made or removed elsewhere: while it is there, two things may
not agree.

What is half made has no other protocol but two, each where claims cannot serve: in a folder of the
user's, which is never swept, a file has no name until it is whole (O_TMPFILE); and a download is
locked itself, since the next process does not clear what a dead one left, but goes on with it.
"""

from __future__ import annotations

import _thread  # threading would cost a small program its import
import fcntl
import os
from contextlib import contextmanager, suppress

from reflayer.errors import failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LOCK = ".lock"  # what follows a name in the name of its lock file
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

# NFS makes of flock(2) a lock of the whole process, which any close of the file drops (nfs(5)). So
# a process never opens a lock file that it holds already.
_held: set[str] = set()
_mutex = _thread.allocate_lock()  # of _held


def flock(fd: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file or folder until its last descriptor is closed; False if another has it.

    Raises:
        OSError: it cannot be locked: EBADF, among others, for folders on NFS.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: str, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file ``path``, made where it is absent, while the block runs.

    Those that share it hold it together. The holder of an unshared lock may unlink the file; others
    that wait for it then make it anew.

    Yields:
        Whether the lock was had; False only without ``wait``.
    """
    fd = open_locked(path, shared=shared, wait=wait)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def open_locked(path: str, *, shared: bool = False, wait: bool = True) -> int | None:
    """``locked`` until the descriptor that is returned is closed; None if it was not had."""
    with failing(path, "lock"):
        return _open_locked(path, os.O_CREAT, shared=shared, wait=wait)


class Claim:
    """A name, ``path``, that this process alone may make, fill, move or delete."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def release(self) -> None:
        """Let go of the name, when nothing is left that is so called.

        Raises:
            OperationError: the lock file cannot be unlinked; it is let go of all the same.
        """
        lock = self.path + _LOCK
        try:
            with failing(lock, "unlink"):
                os.unlink(lock)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the name as the death of this process would; nothing is done if it was."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            _held.discard(self.path)


def claim(path: str) -> Claim | None:
    """Claim the name ``path``, which has never been claimed; None where it has.

    A lock file that has gone is not made again under its name: a sweep that saw it may take what is
    so called for abandoned at any later time.
    """
    with failing(path, "lock"):
        try:
            return _claim(path, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return None


def claim_new(folder: str, name: str) -> Claim:
    """Claim a name in ``folder`` that begins with ``name``, and is never claimed again."""
    while True:  # a sweep may lock the new file first
        claimed = claim(f"{folder}/{passing_name(name)}")
        if claimed is not None:
            return claimed


def passing_name(name: str) -> str:
    """``name`` with something behind it that makes it another than all before and after."""
    return f"{name}.{os.urandom(12).hex()}"


def abandoned(folder: str) -> Iterator[tuple[str, bool]]:
    """The names in ``folder`` whose makers are dead, each claimed until the next is asked for.

    Yields:
        The path, and whether it has a lock file. If not, it was let go of after the folder was
        read, or a crash of the machine took the lock file.
    """
    with failing(folder, "list"):
        names = {name.removesuffix(_LOCK) for name in os.listdir(folder)}
    for name in names:
        if name.startswith("."):  # none of ours: NFS keeps what is unlinked while open as .nfs...
            continue
        path = f"{folder}/{name}"
        with failing(path, "lock"):
            try:
                claimed = _claim(path, 0)
            except FileNotFoundError:
                yield path, False
                continue
        if claimed is not None:
            try:
                yield path, True
            finally:
                claimed.release()


def claims(names: Iterable[str]) -> set[str]:
    """Those of ``names`` that are of the lock files of claims."""
    return {name for name in names if name.endswith(_LOCK)}


def take(lock: str) -> Claim | None:
    """Claim what the lock file ``lock`` claims for a dead one; None if he lives or has let go."""
    with failing(lock, "lock"), suppress(FileNotFoundError):
        return _claim(lock.removesuffix(_LOCK), 0)
    return None


def _claim(path: str, flags: int) -> Claim | None:
    with _mutex:
        if path in _held:
            return None
        _held.add(path)
    fd = None
    try:
        fd = _open_locked(path + _LOCK, flags, wait=False)
    finally:
        if fd is None:
            _held.discard(path)
    return None if fd is None else Claim(path, fd)


def _open_locked(path: str, flags: int, *, shared: bool = False, wait: bool) -> int | None:
    """Open and lock a file that is still at ``path`` then; None where another has it."""
    while True:
        fd = os.open(path, _OPEN | flags, 0o600)
        is_ours = False
        try:
            if not flock(fd, shared=shared, wait=wait):
                return None
            is_ours = is_at(path, fd)
            if is_ours:
                return fd
        finally:
            if not is_ours:
                os.close(fd)
        if flags & os.O_EXCL:  # its holder unlinked it after it was opened
            return None


def is_at(path: str, fd: int) -> bool:
    """Whether ``path``, itself and no link, is still the file or folder open as ``fd``."""
    status = os.fstat(fd)
    try:
        return status.st_nlink > 0 and os.path.samestat(status, os.lstat(path))
    except FileNotFoundError:
        return False
