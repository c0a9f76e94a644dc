"""Blobs that come from afar, in pieces: what a failed or killed fetch leaves is used by the next.

Each is ``ingest/ALGORITHM-DIGITS`` in the folder of a ``BlobStore`` until the whole image is there.
Whoever writes one, or checks it, holds a lock (flock(2)) on it. Its mode tells when it is complete
and checked: then it is not written to any more, and anybody may read it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress

from reflayer.errors import failing
from reflayer.images.model.descriptor import check_digest
from reflayer.workers.lock import flock, is_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.images.content.blob_store import BlobStore

_FOLDER = "ingest"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_KEPT = 24 * 3600  # seconds after the last byte
_COMING, _COMPLETE = 0o600, 0o644  # modes


def partial_path(content: BlobStore, digest: str) -> str:
    """Where a blob is while it comes in."""
    return os.path.join(content.folder, _FOLDER, "-".join(check_digest(digest)))


def open_partial(content: BlobStore, digest: str) -> int:
    """Open the file that a blob is to come into, with what is there of it; made where it is not."""
    path = partial_path(content, digest)
    with failing(content.path(digest), "write"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, _OPEN, _COMING)
        os.utime(fd)
        return fd


@contextmanager
def writing(fd: int, path: str, wait: Callable[[], None]) -> Iterator[bool]:
    """Be the only one who writes to what ``open_partial`` opened.

    ``wait`` is called, and waits a moment, as long as another process writes to it.

    Yields:
        Whether the file is still at its path: otherwise it has become a blob, or was removed.
    """
    while not flock(fd, wait=False):
        wait()
    try:
        yield is_at(path, fd)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def is_complete(fd: int) -> bool:
    """Whether what ``open_partial`` opened is all there, and checked."""
    return stat.S_IMODE(os.fstat(fd).st_mode) == _COMPLETE


def complete(fd: int) -> None:
    """Say that such a file is all there and checked; it is written out (fsync(2))."""
    os.fsync(fd)
    os.fchmod(fd, _COMPLETE)


def commit_partial(content: BlobStore, digest: str) -> None:
    """Make a blob of what came in, which is complete.

    Another process that has the same may have done so.
    """
    came, path = partial_path(content, digest), content.path(digest)
    with failing(path, "write"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.link(came, path)  # a rename could put a third one's beginning in place of the blob
        except FileExistsError:
            pass
        except FileNotFoundError:
            if not content.has(digest):
                raise
        with suppress(FileNotFoundError):
            os.unlink(came)


def expire(content_folder: str) -> None:
    """Remove what came into a ``BlobStore`` long ago and nobody has asked for since."""
    folder = os.path.join(content_folder, _FOLDER)
    with failing(folder, "clear"), suppress(FileNotFoundError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):
                if time.time() - os.lstat(path).st_mtime < _KEPT:
                    continue
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    if flock(fd, wait=False):  # else somebody is at it
                        os.unlink(path)
                finally:
                    os.close(fd)
