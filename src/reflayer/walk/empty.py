"""Empty a folder by descriptor: any depth, no link followed, no other mount entered.

What is gone already is no error: others may be deleting the same tree. So several workers share a
tree with hardly a word between them, each taking the folders in an order of its own. Only the names
of one folder are unlinked by one worker at a time: XFS and btrfs take half as long again for two.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from reflayer.errors import OperationError
from reflayer.linux.names import native
from reflayer.linux.openat2 import RESOLVE_NO_XDEV, openat2
from reflayer.walk.folders import OPEN_FOLDER, Folder, FolderStack, open_shut
from reflayer.walk.mounts import IS_MOUNTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_unlink_names: Any = getattr(native, "unlink_names", None)
_UNKNOWN = 0  # d_type of getdents64(2)
_MOMENT = 0.001  # seconds

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
    unlinking: set[int] | None = None,
) -> int:
    """Delete all in the open folder ``fd`` and close it; return how many names went.

    Args:
        fd: descriptor of the folder, which itself stays.
        path: what errors call the folder.
        worker: which of the ``workers`` at work in it this is, from 0.
        workers: how many are at work in it.
        pause: called between two folders, and now and then in a large one.
        unlinking: the inode numbers of those whose names one of the workers unlinks just now.
    """
    removed = 0
    unlinking = set() if unlinking is None else unlinking
    stack = FolderStack[_Emptied](workers)
    with stack:
        try:
            # Opened anew: btrfs lists what there was at the time of opening.
            root = _Emptied(None, b"", fd)
            stack.push(root)
            root.fd = os.open(".", OPEN_FOLDER, dir_fd=fd)
            os.close(fd)
            removed += root.unlink_files(pause, unlinking)
            root.share(worker, workers)
            while len(stack) > 1 or root.children:
                pause()
                folder = stack[-1]
                if folder.children:
                    name = folder.children.pop()
                    child = _enter(folder.fd, name)
                    if child < 0:
                        continue
                    stack.push(_Emptied(folder, name, child))
                    removed += stack[-1].unlink_files(pause, unlinking)
                    stack[-1].share(worker, workers)
                else:
                    stack.reopen_parent()
                    stack.pop().close()
                    try:
                        os.rmdir(folder.name, dir_fd=stack[-1].fd)
                        removed += 1
                    except FileNotFoundError:
                        pass
        except OSError as error:
            # A name; what is opened besides is no bytes.
            name = error.filename if isinstance(error.filename, bytes) else b""
            below = stack[-1].path(name) if stack else b""
            reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
            where = os.path.join(path, below) if below else path
            raise OperationError(where, "remove", reason, error.errno) from error
    return removed


class _Emptied(Folder):
    """A folder that is being emptied.

    Attributes:
        children: names of the folders in it, once all else is gone.
    """

    __slots__ = ("children",)

    def __init__(self, parent: _Emptied | None, name: bytes, fd: int) -> None:
        super().__init__(parent, name, fd, -1, os.fstat(fd))
        self.children: list[bytes] = []
        if self.status.st_mode & 0o700 != 0o700 and os.geteuid() != 0:
            try:
                os.chmod(fd, 0o700)
            except PermissionError:
                pass  # another user's: what cannot go from it is named

    def unlink_files(self, pause: Callable[[], object], unlinking: set[int]) -> int:
        """Unlink all that is no folder, note the folders in ``children``; return how many went."""
        number = self.status.st_ino
        while number in unlinking:
            pause()
            time.sleep(_MOMENT)
        try:
            unlinking.add(number)
            return self._unlink_files(pause)
        finally:
            unlinking.discard(number)

    def _unlink_files(self, pause: Callable[[], object]) -> int:
        removed = 0
        left: bytes | None = b""
        try:
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
        except FileNotFoundError:
            pass  # the name, or the folder itself, which then lists no more
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


def _enter(parent: int, name: bytes) -> int:
    """Open the folder ``name`` of ``parent``, in no other mount; -1 where it is gone."""
    try:
        return openat2(parent, name, OPEN_FOLDER, RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return -1
        if error.errno == errno.EACCES:
            return open_shut(name, parent)
        if error.errno == errno.EXDEV:
            raise OSError(errno.EBUSY, IS_MOUNTED, name) from None
        if error.errno != errno.ENOSYS:
            raise OSError(error.errno, error.strerror, name) from None
    fd = os.open(name, OPEN_FOLDER, dir_fd=parent)  # before Linux 5.6
    if os.fstat(fd).st_dev != os.fstat(parent).st_dev:
        os.close(fd)
        raise OSError(errno.EBUSY, IS_MOUNTED, name)
    return fd
