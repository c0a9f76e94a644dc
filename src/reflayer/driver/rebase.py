"""A difference that others have filled is told what it lies on; or that it is the lowest layer."""

from __future__ import annotations

import os

from reflayer.driver.differences import (
    add_child,
    difference_path,
    is_difference,
    lower,
    require,
    set_lower,
    settle_root,
    stack,
    upper_path,
)
from reflayer.driver.home import layer_path, naming
from reflayer.driver.trash import delete_trash, discard
from reflayer.errors import LayerError, OperationError, failing
from reflayer.linux.xattrs import path_at
from reflayer.walk.facts import Facts, FailedError, list_attributes, read_attributes_at
from reflayer.walk.folders import OPEN_FOLDER, Folder, FolderStack, identity
from reflayer.walk.metadata import Metadata
from reflayer.walk.overlay import (
    WHITEOUT_MODE,
    clear_marks,
    is_device,
    is_whiteout,
    tree_attributes,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.home import Making


def rebase(home: str, id: str, parent: str | None, making: Making) -> None:
    """Let the difference ``id`` lie on layer ``parent``; on None, let it be whole.

    Raises:
        LayerError: one of them is not there, ``id`` is whole or lies on another already, or
            ``parent`` lies on it.
    """
    if not is_difference(home, id):
        require(home, id)
        if parent is not None:
            raise LayerError(f"layer {id} is whole: it cannot lie on {parent}")
        return
    before = lower(home, id)
    if before is not None and before != parent:
        raise LayerError(f"layer {id} lies on {before} already")
    upper = upper_path(home, id)
    settle_root(home, parent, upper, making)
    if parent is None:
        _strip(upper)
    with failing(upper, "rebase"), naming(home):
        if not is_difference(home, id):
            raise LayerError(f"layer {id} was removed meanwhile")
        if parent is None:
            os.rename(upper, layer_path(home, id))
            trash = discard(difference_path(home, id), home)
        else:
            if os.fsencode(upper) in stack(home, parent).differences:
                raise LayerError(f"layer {parent} lies on layer {id} itself")
            add_child(home, parent, id)
            set_lower(difference_path(home, id), parent)
            trash = None
    if trash is not None:
        delete_trash(trash)


class _Stripped(Folder):
    """A folder of a difference that is to be a whole layer's.

    Attributes:
        children: the folders in it that are to be stripped.
    """

    __slots__ = ("children",)

    def __init__(
        self, parent: _Stripped | None, name: bytes, fd: int, seen: set[tuple[int, int]]
    ) -> None:
        """Strip what is no folder in the open ``fd``; ``seen`` are the files that have been."""
        super().__init__(parent, name, fd, -1, os.fstat(fd))
        clear_marks(fd)
        self.children: list[bytes] = []
        whiteouts, devices = [], []
        with os.scandir(fd) as scan:
            for entry in scan:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    self.children.append(name)
                elif entry.is_symlink():
                    continue
                elif not entry.is_file(follow_symlinks=False):
                    if is_whiteout(entry.stat(follow_symlinks=False)):
                        whiteouts.append(name)
                elif is_device(names := list_attributes(path_at(fd, name))):
                    devices.append(name)
                elif tree_attributes(dict.fromkeys(names, b"")).keys() != set(names):
                    inode = identity(entry.stat(follow_symlinks=False))
                    if inode not in seen:  # by another name
                        seen.add(inode)
                        clear_marks(path_at(fd, name))
        for name in whiteouts:
            os.unlink(name, dir_fd=fd)
        for name in devices:
            _make_device(fd, name)
        if whiteouts or devices:
            os.utime(fd, ns=(self.status.st_atime_ns, self.status.st_mtime_ns))


def _make_device(folder: int, name: bytes) -> None:
    """Make the device 0:0 that a marked file stands for."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    attributes = tree_attributes(read_attributes_at(folder, name))
    os.unlink(name, dir_fd=folder)
    os.mknod(name, WHITEOUT_MODE, 0, dir_fd=folder)
    Metadata("keep").set_all_at(folder, name, Facts(status, attributes), -1, -1, -1)


def _strip(upper: str) -> None:
    """Let all in it be as it is in a tree: nothing is below that could be hidden."""
    seen: set[tuple[int, int]] = set()
    with FolderStack[_Stripped]() as walk:
        try:
            walk.push(_Stripped(None, b"", os.open(upper, OPEN_FOLDER), seen))
            while walk:
                folder = walk[-1]
                if folder.children:
                    name = folder.children.pop()
                    fd = os.open(name, OPEN_FOLDER, dir_fd=folder.fd)
                    walk.push(_Stripped(folder, name, fd, seen))
                else:
                    walk.reopen_parent()
                    walk.pop().close()
        except OSError as error:
            where = os.path.join(os.fsencode(upper), walk[-1].path()) if walk else upper
            raise OperationError.from_os_error(error, where, "take whiteouts away") from error
        except FailedError as error:
            where = os.path.join(os.fsencode(upper), walk[-1].path()) if walk else upper
            raise OperationError.from_os_error(error.cause, where, error.operation) from error
