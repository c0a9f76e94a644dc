"""Empty a folder by descriptor: any depth, no link followed, no other mount entered.

Somebody else may be deleting the same tree: what is gone already is no error. So several workers
can share a tree without a word: each takes the folders in an order of its own.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from reflayer.copy.folder import OPEN_FOLDER, open_levels
from reflayer.copy.mounts import IS_MOUNTED
from reflayer.errors import OperationError
from reflayer.linux.names import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_unlink_names: Any = getattr(native, "unlink_names", None)
_UNKNOWN = 0  # d_type of getdents64(2)

_REASONS = {
    errno.EBUSY: IS_MOUNTED,
    errno.EPERM: "it or its folder is immutable (lsattr), or belongs to another user",
    errno.EACCES: "it or its folder belongs to another user",
}


def empty_folder(
    fd: int,
    path: bytes,
    *,
    worker: int = 0,
    workers: int = 1,
    pause: Callable[[], object] = lambda: None,
) -> int:
    """Delete all in the open folder ``fd`` and close it; return how many names went.

    Args:
        fd: descriptor of the folder, which itself stays.
        path: what errors call the folder.
        worker: which of those at work in it this is, from 0.
        workers: how many are at work in it.
        pause: called between two folders, and now and then in a large one.

    Raises:
        OperationError: a name could not be deleted, as ``remove_tree`` says.
    """
    stack: list[_Level] = []
    kept = open_levels(workers)
    removed = 0
    try:
        stack.append(_Level(b"", fd))
        # Opened anew: btrfs lists what there was at the time of opening.
        stack[0].fd = os.open(".", OPEN_FOLDER, dir_fd=fd)
        os.close(fd)
        removed += stack[0].unlink_files(pause)
        stack[0].share(worker, workers)
        while len(stack) > 1 or stack[0].children:
            pause()
            level = stack[-1]
            if level.children:
                name = level.children.pop()
                child = _enter(level.fd, name)
                if child < 0:
                    continue
                stack.append(_Level(name, child))
                if len(stack) > kept:
                    stack[-kept].shelve()
                removed += stack[-1].unlink_files(pause)
                stack[-1].share(worker, workers)
            else:
                above = stack[-2]
                above.reopen(level)
                stack.pop().shelve()
                with suppress(FileNotFoundError):
                    os.rmdir(level.name, dir_fd=above.fd)
                    removed += 1
    except OSError as error:
        names = [level.name for level in stack[1:]]
        if isinstance(error.filename, bytes):  # a name; what is opened besides is no bytes
            names.append(error.filename)
        where = os.path.join(path, *names)
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OperationError(where, "remove", reason, error.errno) from error
    finally:
        for level in stack:
            level.shelve()
    return removed


class _Level:
    """A folder that is being emptied, one of those that lead down to the innermost."""

    __slots__ = ("_id", "children", "fd", "name")

    def __init__(self, name: bytes, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.children: list[bytes] = []
        status = os.fstat(fd)
        self._id = (status.st_dev, status.st_ino)
        if status.st_mode & 0o700 != 0o700 and os.geteuid() != 0:
            with suppress(PermissionError):  # another user's: what cannot go from it is named
                os.chmod(fd, 0o700)

    def unlink_files(self, pause: Callable[[], object]) -> int:
        """Unlink all that is no folder, note the folders in ``children``; return how many went."""
        removed = 0
        # Not found: the name, or the folder itself, which then lists no more.
        with suppress(FileNotFoundError):
            left: bytes | None = b""
            while left is not None and _unlink_names is not None:
                here, folders, rest, left = _unlink_names(self.fd, left)
                removed += here
                self.children += folders
                for kind, name in rest:
                    removed += self._unlink(name, kind == _UNKNOWN)
                pause()
            if _unlink_names is None:
                with os.scandir(self.fd) as scan:
                    for entry in scan:
                        if entry.is_dir(follow_symlinks=False):
                            self.children.append(os.fsencode(entry.name))
                        else:
                            removed += self._unlink(os.fsencode(entry.name))
        return removed

    def _unlink(self, name: bytes, may_be_folder: bool = False) -> bool:
        """Unlink ``name``; False where it is a folder, which is noted, or gone."""
        try:
            if may_be_folder and stat.S_ISDIR(os.lstat(name, dir_fd=self.fd).st_mode):
                self.children.append(name)
                return False
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def share(self, worker: int, workers: int) -> None:
        """Put the children in this worker's order: from one end or the other, from its own start.

        Two workers begin at the two ends, and meet where they meet.
        """
        if worker % 2:
            self.children.reverse()
        start = len(self.children) * (worker // 2) // max(1, (workers + 1) // 2)
        if start:
            self.children = self.children[start:] + self.children[:start]

    def shelve(self) -> None:
        """Close the descriptor; ``reopen`` finds the folder again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def reopen(self, child: _Level) -> None:
        """Open the folder again where it was shelved, from ``child``, open and directly in it."""
        if self.fd >= 0:
            return
        self.fd = os.open("..", OPEN_FOLDER, dir_fd=child.fd)
        status = os.fstat(self.fd)
        if (status.st_dev, status.st_ino) != self._id:
            raise OSError(errno.ESTALE, "the folder was moved while it was being deleted")


def _enter(parent: int, name: bytes) -> int:
    """Open the folder ``name`` of ``parent``, in no other mount (openat2(2): RESOLVE_NO_XDEV).

    Returns -1 where it is not there any more.
    """
    try:
        from reflayer.linux.openat2 import RESOLVE_NO_XDEV, openat2

        return openat2(parent, name, OPEN_FOLDER, RESOLVE_NO_XDEV)
    except ImportError:  # no ctypes
        pass
    except OSError as error:
        if error.errno == errno.ENOENT:
            return -1
        if error.errno == errno.EACCES:
            let_in(name, parent)
            return os.open(name, OPEN_FOLDER, dir_fd=parent)
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, IS_MOUNTED, name) from None
        if error.errno != errno.ENOSYS:
            raise OSError(error.errno, error.strerror, name) from None
    fd = os.open(name, OPEN_FOLDER, dir_fd=parent)  # before Linux 5.6
    if os.fstat(fd).st_dev != os.fstat(parent).st_dev:
        os.close(fd)
        raise OSError(errno.EBUSY, IS_MOUNTED, name)
    return fd


def let_in(name: bytes, parent: int | None = None) -> None:
    """Give the folder ``name``, which refuses to be read, its owner's permissions."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    except OSError as error:
        error.filename = name
        raise
    finally:
        os.close(fd)
