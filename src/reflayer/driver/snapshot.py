"""btrfs: a layer is a subvolume, and its clone a snapshot where nothing is lost by it."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from reflayer.errors import OperationError
from reflayer.linux.btrfs import (
    SUBVOLUME_INODE,
    allow_writing,
    create_snapshot,
    create_subvolume,
    destroy_subvolume,
    has_subvolumes,
    is_subvolume,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_SUBVOLUMES = frozenset({errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_NO_SNAPSHOT = frozenset({errno.EXDEV, errno.EPERM, errno.EINVAL})
_NOT_TO_DESTROY = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTEMPTY, errno.EINVAL, errno.ENOTDIR, errno.ENOENT}
)


def make_subvolume(path: str) -> bool:
    """Make an empty subvolume at ``path``; False where the file system has none.

    Raises:
        OSError: it cannot be made.
    """
    try:
        with _place(path) as (folder, name):
            create_subvolume(folder, name)
    except OSError as error:
        if error.errno in _NO_SUBVOLUMES:
            return False
        raise
    return True


def snapshot(source: int, path: str) -> str | None:
    """Make ``path`` a snapshot of the open folder ``source``; or say why it would not be the same.

    Raises:
        OSError: it cannot be made for another reason.
    """
    if not is_subvolume(source):
        return "the parent is not a btrfs subvolume"
    try:
        if has_subvolumes(source):
            return "a subvolume inside the parent would be missing"
        with _place(path) as (folder, name):
            create_snapshot(source, folder, name)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return "this kernel cannot tell whether a subvolume is inside the parent"
        if error.errno in _NO_SNAPSHOT:
            return f"{error.strerror}: the kernel does not let it be made here"
        raise
    return None


def make_writable(path: str) -> None:
    """Let the subvolume at ``path``, which is read-only, be changed.

    Raises:
        OSError: EINVAL or ENOTTY where it is no subvolume; otherwise it is not ours.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        allow_writing(fd)
    finally:
        os.close(fd)


def destroy(path: str) -> bool:
    """Destroy the subvolume ``path``; False where that is not what it is, or not allowed.

    Raises:
        OperationError: a file system is mounted in it, or destroying it failed.
    """
    try:
        with _place(path) as (folder, name):
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino != SUBVOLUME_INODE:
                return False
            from reflayer.walk.mounts import refuse_mounts_at

            # The kernel would detach them without a word.
            refuse_mounts_at(name, os.fsencode(path), folder)
            destroy_subvolume(folder, name)
    except OSError as error:
        if error.errno in _NOT_TO_DESTROY or error.errno in _NO_SUBVOLUMES:
            return False
        raise OperationError.from_os_error(error, path, "destroy") from error
    return True


@contextmanager
def _place(path: str) -> Iterator[tuple[int, bytes]]:
    """The open folder that ``path`` is in, and its name there."""
    folder, name = os.path.split(os.fsencode(path))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd, name
    finally:
        os.close(fd)
