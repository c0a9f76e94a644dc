"""A file that is being written: nobody sees it before it is complete, no crash leaves a part of it.

It has no name until then (open(2), ``O_TMPFILE``), so it goes with its writer. Where there are no
such files (NFS, or no /proc), and for the moment in which it replaces another one, it has a name:
claimed in a folder for such, which is swept, or beside its place.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress

from reflayer.errors import OperationError, failing
from reflayer.walk.facts import OF_THE_DATA
from reflayer.workers.lock import abandoned, claim_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from hashlib import _Hash as Hash
    from typing import BinaryIO, Self

    from reflayer.workers.lock import Claim

_OPEN_FILES = "/proc/self/fd"
_BUFFER = 1 << 20  # bytes
_MODE = 0o666  # less the umask


class TempFile:
    """A new file, made when it is entered and gone at the end unless it was committed.

    Attributes:
        fd: it, open for reading and writing.
    """

    def __init__(self, folder: str, names: str | None = None) -> None:
        """Of the file system of ``folder``; it is yet to be made.

        If it needs a name it gets it in ``names``, made where it is absent, which ``clear`` sweeps;
        or else in ``folder``, which nobody sweeps.
        """
        self.fd = -1
        self._folder = folder
        self._names = names
        self._path = ""  # where it has a name meanwhile
        self._claim: Claim | None = None

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _make(self) -> None:
        try:
            if os.path.exists(_OPEN_FILES):  # else it could get no name later
                flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
                self.fd = os.open(self._folder, flags, _MODE)
                return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # the latter by old kernels
                raise
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.fd = os.open(self._new_name(), flags, _MODE)

    def commit(self, path: str) -> None:
        """Write it out (fsync(2)), then make it ``path``, absolute, in place of what is there."""
        os.fsync(self.fd)
        if not self._path:
            try:
                self._link(path)
            except FileExistsError:  # a link never takes another's place, a rename does
                self._link(self._new_name())
        if self._path:
            os.rename(self._path, path)

    def _close(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        if self.fd >= 0:
            os.close(self.fd)
        if self._claim is not None:
            self._claim.release()

    def _link(self, path: str) -> None:
        # Only with a descriptor of a folder does os.link() call linkat(2), which follows the link
        # in /proc; for an absolute path it is of no other import.
        os.link(f"{_OPEN_FILES}/{self.fd}", path, dst_dir_fd=self.fd)

    def _new_name(self) -> str:
        if self._names is None:
            self._path = os.path.join(self._folder, f".reflayer-{os.urandom(8).hex()}")
            return self._path
        while self._claim is None:
            with suppress(FileExistsError):
                os.mkdir(self._names)
            try:
                self._claim = claim_new(self._names, "file")
            except OperationError as error:
                if error.errno != errno.ENOENT:  # else its last user has removed it
                    raise
        self._path = self._claim.path
        return self._path


def clear(names: str) -> None:
    """Remove the files whose writers are dead; the folder may be gone with them."""
    try:
        for path, _ in abandoned(names):
            with failing(path, "clear"), suppress(FileNotFoundError):
                os.unlink(path)
    except OperationError as error:
        if error.errno != errno.ENOENT:
            raise


@contextmanager
def replacement(path: str) -> Iterator[BinaryIO]:
    """A new file, open for writing, that becomes ``path`` when the block is through.

    It is written out (fsync(2)) before that. What was called so, if it was a regular file, is there
    until then, and for good where the block fails. Of a link, the file that it leads to is
    replaced. If it needs a name meanwhile, that is ``.reflayer-DIGITS`` beside the path.
    """
    place = os.path.realpath(path)
    with TempFile(os.path.dirname(place)) as file:
        with open(file.fd, "wb", buffering=_BUFFER, closefd=False) as out:
            yield out
        file.commit(place)


def sync_folder(path: str) -> None:
    with failing(path, "fsync"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def fill(
    fd: int,
    source: BinaryIO,
    hashing: Hash | None,
    most: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write all of ``source`` to the empty file ``fd``; return its size in bytes.

    A regular file that nothing was read of is shared, where the file system can. Where ``most`` is
    given, and there are more bytes, not all are read and written. ``hashing`` gets every byte that
    was written; ``progress`` is called with their number.
    """
    size = _regular_size(source)
    if size is not None and most is not None and size != most:
        return size
    is_shared = size is not None and _share(source.fileno(), fd)
    if is_shared and hashing is None:
        return os.fstat(fd).st_size
    count = 0
    # What is hashed is what is kept, whatever happens to the source.
    for data in _pieces(source, size is not None, fd if is_shared else -1):
        count += len(data)
        if most is not None and count > most:
            break
        if hashing is not None:
            hashing.update(data)
        if not is_shared:
            write_all(fd, memoryview(data))
        if progress is not None:
            progress(count)
    return count


def write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _regular_size(source: BinaryIO) -> int | None:
    """The size of a regular file that nothing has been read of; None for anything else."""
    try:
        status = os.fstat(source.fileno())
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) and source.tell() == 0 else None


def _share(source: int, fd: int) -> bool:
    """Whether the empty file ``fd`` has the blocks of ``source`` now."""
    from reflayer.linux.ficlone import ficlone  # not needed by a program that writes no blobs

    try:
        ficlone(fd, source)
    except OSError as error:
        if error.errno in OF_THE_DATA:
            raise
        return False
    return True


def _pieces(source: BinaryIO, is_regular: bool, shared: int) -> Iterator[bytes | memoryview]:
    """The bytes of ``source``, or of the file that shares its blocks."""
    if not is_regular:
        while data := _read(source):
            yield data
        return
    buffer = memoryview(bytearray(_BUFFER))
    while length := _read_into(source.fileno() if shared < 0 else shared, buffer):
        yield buffer[:length]


def _read(source: BinaryIO) -> bytes:
    with failing("the blob", "read"):
        return source.read(_BUFFER)


def _read_into(fd: int, buffer: memoryview) -> int:
    with failing("the blob", "read"):
        return os.readv(fd, [buffer])
