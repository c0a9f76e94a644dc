"""Files that are being written, until they are complete: nobody sees them, no crash leaves them.

Each writer holds a lock (flock(2)) on its own file, which ends with the writer however it ends.
So a file whose lock can be had is left over, and no list of writers is needed.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress

from reflayer.errors import failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Incoming:
    """A file that is being written.

    Attributes:
        fd: it, open for reading and writing.
        path: where it is meanwhile.
    """

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path

    def commit(self, path: str) -> None:
        """Write it out (fsync(2)), then make it ``path`` in place of what is there.

        Raises:
            OperationError: it cannot be written.
        """
        with failing(path, "write"):
            os.fsync(self.fd)
            os.rename(self.path, path)


@contextmanager
def incoming(folder: str, path: str, *, make_folder: bool = False) -> Iterator[Incoming]:
    """A new file in ``folder`` that is to become ``path``; gone at the end unless it has.

    With ``make_folder`` the folder is made where it is absent.

    Raises:
        OperationError: it cannot be made; and for every ``OSError`` of the block: ``path`` cannot
            be written.
    """
    with failing(path, "write"):
        file = _create(folder, make_folder)
        try:
            yield file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(file.path)
            os.close(file.fd)


def clear(folder: str) -> None:
    """Remove the files of ``folder`` whose writers are gone; it may be gone with them.

    Raises:
        OperationError: one cannot be removed.
    """
    with failing(folder, "clear"), suppress(FileNotFoundError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError, BlockingIOError), _opened(path) as fd:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)


@contextmanager
def locked(path: str, kind: int) -> Iterator[None]:
    """Hold a lock (``LOCK_SH`` or ``LOCK_EX`` of flock(2)) on the file ``path`` meanwhile.

    Who holds it for himself may remove the file; who waits for it then makes it anew.

    Raises:
        OperationError: it cannot be had.
    """
    with failing(path, "lock"):
        fd = _locked(path, kind)
    try:
        yield
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """Write out the names in a folder (fsync(2)).

    Raises:
        OperationError: they cannot be written.
    """
    with failing(path, "fsync"), _opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


def _locked(path: str, kind: int) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, kind)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _create(folder: str, make_folder: bool) -> Incoming:
    while True:
        path = os.path.join(folder, os.urandom(16).hex())
        try:
            fd = os.open(path, _CREATE, 0o644)
        except FileNotFoundError:
            if not make_folder:
                raise
            with suppress(FileExistsError):
                os.mkdir(folder)  # whoever used it last has tidied up
            continue
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return Incoming(fd, path)
        os.close(fd)  # taken for a leftover before it was locked


@contextmanager
def _opened(path: str, flags: int = _OPEN) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)
