"""Empty a folder by descriptor: any depth, no link followed, no other mount entered.

Somebody else may be deleting the same tree: what is gone already is no error. So several hands can
share a tree without a word: each takes the folders in an order of its own.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from reflayer.copy.mounts import IS_MOUNTED
from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_REASONS = {
    errno.EBUSY: IS_MOUNTED,
    errno.EPERM: "it or its folder is immutable (lsattr), or belongs to another user",
    errno.EACCES: "it or its folder belongs to another user",
}

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_LEVELS = 64  # folders whose descriptors stay open; those further up are found again by ".."


def empty_folder(
    fd: int,
    path: bytes,
    *,
    hand: int = 0,
    hands: int = 1,
    pause: Callable[[], None] = lambda: None,
) -> int:
    """Delete all in the open folder ``fd`` and close it; return how many names went.

    Args:
        fd: descriptor of the folder, which itself stays.
        path: what errors call the folder.
        hand: which of those at work in it this is, from 0.
        hands: how many are at work in it.
        pause: called between two folders.

    Raises:
        OperationError: a name could not be deleted, as ``remove_tree`` says.
    """
    stack: list[_Level] = []
    removed = 0
    try:
        stack.append(_Level("", fd))
        # Opened anew: btrfs lists what there was at the time of opening.
        stack[0].fd = os.open(".", OPEN_FOLDER, dir_fd=fd)
        os.close(fd)
        removed += stack[0].unlink_files()
        stack[0].share(hand, hands)
        while len(stack) > 1 or stack[0].children:
            pause()
            level = stack[-1]
            if level.children:
                name = level.children.pop()
                child = _enter(level.fd, name)
                if child < 0:
                    continue
                stack.append(_Level(name, child))
                if len(stack) > _OPEN_LEVELS:
                    stack[-_OPEN_LEVELS].shelve()
                removed += stack[-1].unlink_files()
                stack[-1].share(hand, hands)
            else:
                above = stack[-2]
                above.reopen(level)
                stack.pop().shelve()
                with suppress(FileNotFoundError):
                    os.rmdir(level.name, dir_fd=above.fd)
                    removed += 1
    except OSError as error:
        names = [level.name for level in stack[1:]]
        if error.filename and error.filename != "..":
            names.append(error.filename)
        where = os.path.join(path, *map(os.fsencode, names))
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OperationError(where, "remove", reason, error.errno) from error
    finally:
        for level in stack:
            level.shelve()
    return removed


class _Level:
    """A folder that is being emptied, one of those that lead down to the innermost."""

    __slots__ = ("_id", "children", "fd", "name")

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.children: list[str] = []
        status = os.fstat(fd)
        self._id = (status.st_dev, status.st_ino)
        if status.st_mode & 0o700 != 0o700 and os.geteuid() != 0:
            os.chmod(fd, 0o700)

    def unlink_files(self) -> int:
        """Unlink all that is no folder, note the folders in ``children``; return how many went."""
        removed = 0
        # Not found: the name, or the folder itself, which then lists no more.
        with os.scandir(self.fd) as scan, suppress(FileNotFoundError):
            for entry in scan:
                if entry.is_dir(follow_symlinks=False):
                    self.children.append(entry.name)
                    continue
                try:
                    os.unlink(entry.name, dir_fd=self.fd)
                except FileNotFoundError:
                    continue
                removed += 1
        return removed

    def share(self, hand: int, hands: int) -> None:
        """Put the children in this hand's order: from one end or the other, from where it stands.

        Two hands begin at the two ends, and meet where they meet.
        """
        if hand % 2:
            self.children.reverse()
        start = len(self.children) * (hand // 2) // max(1, (hands + 1) // 2)
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


def _enter(parent: int, name: str) -> int:
    """Open the folder ``name`` of ``parent``, in no other mount (openat2(2): RESOLVE_NO_XDEV).

    Returns -1 where it is not there any more.
    """
    try:
        from reflayer.linux.openat2 import RESOLVE_NO_XDEV, openat2

        return openat2(parent, os.fsencode(name), OPEN_FOLDER, RESOLVE_NO_XDEV)
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


def let_in(name: str | bytes, parent: int | None = None) -> None:
    """Give the folder ``name``, which refuses to be read, its owner's permissions."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)
