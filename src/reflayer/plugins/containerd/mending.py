"""What containerd's applier leaves, made what the layer means.

It unpacks a difference in overlayfs' upper form: a device 0:0 for a whiteout, and the attribute
``trusted.overlay.opaque`` for an opaque folder, the only ``trusted.`` one that it sets (pkg/archive
of containerd). Not all of it is right:

- A layer's own device 0:0 looks like a whiteout; but a whiteout has no permission bit, and the time
  of its making.
- Attributes of the layer that are called as overlayfs' own are not escaped.
- A folder that the layer has no entry for has the time of its making, and where the applier knows
  no ``lowerdir``, nothing else of the folder below either. Of the root it takes no entry.
- A path through a link of a lower layer has made a folder in the link's place. In a clone of what
  is below, the applier would have followed the link.

A hard link to a name that only a lower layer has, it cannot make: it fails, as with overlayfs.

In a clone of what is below it does all that right, but for the times of folders without an entry.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress

from reflayer.archive.copy_up import folder_facts
from reflayer.copy import remove_tree
from reflayer.errors import OperationError, failing
from reflayer.linux.xattrs import path_at
from reflayer.walk.facts import Facts, FailedError, list_attributes
from reflayer.walk.folders import (
    NEW_FILE,
    OPEN_ANY_FOLDER,
    OPEN_FOLDER,
    Folder,
    FolderStack,
    identity,
    open_beneath,
    open_noatime,
)
from reflayer.walk.metadata import Metadata
from reflayer.walk.overlay import (
    Marks,
    difference_attributes,
    is_implied,
    is_opaque,
    is_whiteout,
)
from reflayer.walk.stack import Union, UnionPaths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.walk.stack import Stack

_OVERLAY = "user.overlay."
_BEHIND = 20_000_000  # nanoseconds that the clock of inodes may be behind
_NOTHING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_MOST_LINKS = 40  # path_resolution(7)


def mend(upper: str, below: Stack | None, since: int) -> None:
    """Put right the difference ``upper`` on ``below``, which an applier has filled.

    Once is enough, and a second time changes nothing.

    Args:
        upper: its folder.
        below: the stack that it lies on; None for a layer that lies on nothing.
        since: nanoseconds since the epoch; the applier began no sooner.

    Raises:
        OperationError: something in it, or below, cannot be read or set.
    """
    with failing(upper, "open"):
        root = open_noatime(upper, None, OPEN_ANY_FOLDER)
    try:
        with failing(upper, "setxattr"):
            marks = Marks(root)
            if is_implied(list_attributes(root)):
                return
        mending = _Mending(upper, root, marks, below, since - _BEHIND)
        mending.walk()
        for _ in range(_MOST_LINKS):
            if not mending.follow_links():
                break
            mending.walk()
        with failing(upper, "setxattr"):
            marks.set_implied(root)
    finally:
        os.close(root)


def mend_clone(root: str, parent: Stack, since: int) -> None:
    """Put right the clone ``root`` of ``parent``, which an applier has changed: folders' times.

    Arguments and errors are those of ``mend``.
    """
    with failing(root, "open"):
        fd = open_noatime(root, None, OPEN_ANY_FOLDER)
    try:
        _Mending(root, fd, None, parent, since - _BEHIND).walk()
    finally:
        os.close(fd)


class _Unpacked(Folder):
    """A folder of the difference, with the folders in it that are still to be entered."""

    __slots__ = ("has_below", "has_entry", "is_touched", "shows_below", "todo")

    def __init__(self, parent: _Unpacked | None, name: bytes, fd: int) -> None:
        super().__init__(parent, name, fd, -1, os.fstat(fd))
        self.has_entry = True  # in the layer
        self.has_below = False  # the same folder may be below
        self.shows_below = False  # so what is in it may be below, too
        self.is_touched = False  # we have changed a name in it
        self.todo: list[bytes] = []


class _Mending:
    """A walk through a difference, or without ``marks`` through a clone."""

    def __init__(
        self, upper: str, root: int, marks: Marks | None, below: Stack | None, since: int
    ) -> None:
        self._upper = os.fsencode(upper)
        self._root = root
        self._marks = marks
        self._below = below
        self._since = since
        self._until = 0
        self._is_escaped = False
        self._escaped: set[tuple[int, int]] = set()  # files, which may have several names
        self._metadata = Metadata("keep")
        self._misplaced: dict[bytes, bytes] = {}  # folders in a link's place, and where it leads
        self._at = b""  # the folder at work

    def walk(self) -> None:
        """Put right all but the folders in the place of a link; note those."""
        self._until = time.time_ns()
        folders: FolderStack[_Unpacked] = FolderStack()
        with (
            self._failing(),
            self._root_below() as root,
            UnionPaths(root) as self._folders,
            folders,
        ):
            folders.push(self._enter(None, b"."))
            while folders:
                folder = folders[-1]
                self._at = folder.path()
                if folder.todo:
                    folders.push(self._enter(folder, folder.todo.pop()))
                    continue
                self._leave(folder)
                folders.reopen_parent()
                folders.pop().close()
        self._is_escaped = True

    def _enter(self, parent: _Unpacked | None, name: bytes) -> _Unpacked:
        fd = open_noatime(name, self._root if parent is None else parent.fd, OPEN_FOLDER)
        folder = _Unpacked(parent, b"" if parent is None else name, fd)
        folder.has_entry = parent is not None and not self._is_made_now(folder.status)
        folder.has_below = self._below is not None if parent is None else parent.shows_below
        if self._marks is None:
            folder.shows_below = True
        elif self._look_at_folder(folder):
            return folder
        with os.scandir(fd) as scan:
            for entry in scan:
                if entry.is_dir(follow_symlinks=False):
                    folder.todo.append(os.fsencode(entry.name))
                elif self._marks is not None and not entry.is_symlink():
                    self._look_at(folder, entry)
        return folder

    def _look_at_folder(self, folder: _Unpacked) -> bool:
        """Whether it is in the place of a link, and will go with all that is in it."""
        if folder.has_entry:
            if not self._is_escaped:
                _escape(folder.fd)
        elif folder.has_below and folder.parent is not None:
            target = self._link_below(folder.parent.path(), folder.name)
            if target is not None:
                self._misplaced[folder.path()] = target
                folder.has_entry = True
                return True
        folder.shows_below = folder.has_below and not is_opaque(folder.fd)
        return False

    def _look_at(self, folder: _Unpacked, entry: os.DirEntry[str]) -> None:
        name = os.fsencode(entry.name)
        if entry.is_file(follow_symlinks=False):
            if not self._is_escaped:
                self._escape_file(folder, name, entry)
            return
        status = entry.stat(follow_symlinks=False)
        if is_whiteout(status) and (stat.S_IMODE(status.st_mode) or not self._is_made_now(status)):
            self._make_device(folder.fd, name, status)
            folder.is_touched = True

    def _escape_file(self, folder: _Unpacked, name: bytes, entry: os.DirEntry[str]) -> None:
        path = path_at(folder.fd, name)
        if any(name.startswith(_OVERLAY) for name in list_attributes(path)):
            inode = identity(entry.stat(follow_symlinks=False))
            if inode not in self._escaped:
                self._escaped.add(inode)
                _escape(path)

    def _make_device(self, folder: int, name: bytes, status: os.stat_result) -> None:
        """Let a device of the layer stand as one does in a difference."""
        path = path_at(folder, name)
        names = list_attributes(path, follow=False)
        found = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
        os.unlink(name, dir_fd=folder)
        file = os.open(name, NEW_FILE, 0o600, dir_fd=folder)
        try:
            assert self._marks is not None
            self._marks.set_device(file)
            facts = Facts(status, difference_attributes(found))
            self._metadata.set_all(file, facts, -1, -1, -1)
        finally:
            os.close(file)

    def _leave(self, folder: _Unpacked) -> None:
        if folder.has_entry:
            if folder.is_touched:
                _set_times(folder.fd, folder.status)
            return
        path = folder.path()
        union = self._union(path) if folder.has_below else None
        if union is not None:
            if self._marks is None:
                _set_times(folder.fd, os.fstat(union.parts[0].fd))
            else:
                self._metadata.set_all(folder.fd, folder_facts(union.parts[0]), -1, -1, -1)
        if path and self._marks is not None:  # that of the root says that all is done
            self._marks.set_implied(folder.fd)

    def _is_made_now(self, status: os.stat_result) -> bool:
        return self._since <= status.st_mtime_ns <= self._until

    def _root_below(self) -> Union:
        return Union([]) if self._below is None else Union.root(self._below)

    def _union(self, path: bytes) -> Union | None:
        """The folder ``path`` below; None where that is none, or a link is on the way."""
        try:
            return self._folders.at(path.split(b"/") if path else [])
        except OSError as error:
            if error.errno not in _NOTHING:
                raise
            return None

    def _link_below(self, folder: bytes, name: bytes) -> bytes | None:
        """Where the link ``name`` in a folder below leads to; None where it is none, or a loop."""
        if self._read_link(folder, name) is None:
            return None
        at = folder.split(b"/") if folder else []
        todo, links = [name], 0
        while todo and links <= _MOST_LINKS:
            name = todo.pop()
            if name == b"..":
                del at[-1:]
            elif name not in (b"", b"."):
                target = self._read_link(b"/".join(at), name)
                if target is None:
                    at.append(name)
                else:
                    links += 1
                    at = [] if target.startswith(b"/") else at
                    todo += target.split(b"/")[::-1]
        return b"/".join(at) if at and not todo else None

    def _read_link(self, folder: bytes, name: bytes) -> bytes | None:
        union = self._union(folder)
        found = None if union is None else union.find(name)
        if found is None or not stat.S_ISLNK(found[1].st_mode):
            return None
        return os.readlink(name, dir_fd=found[0].fd)

    def follow_links(self) -> bool:
        """Move what is in the folders in the place of links to where those lead.

        Whether anything was moved: then it has to be looked at in its new place.
        """
        moved = False
        while self._misplaced:
            self._at, target = self._misplaced.popitem()
            with self._failing():
                moved |= self._move_all(self._at, target)
        return moved

    def _move_all(self, path: bytes, target: bytes) -> bool:
        """Whether it was possible: something else may stand in the way."""
        try:
            _make_folders(self._root, target)
        except NotADirectoryError:
            return False
        todo = [(path, target)]
        while todo:
            source, destination = todo.pop()
            with (
                self._opened(source) as old,
                self._opened(destination) as new,
                _keeping_times(new),
            ):
                for name in map(os.fsencode, os.listdir(old)):
                    if _are_folders(name, old, new):
                        todo.append((b"%b/%b" % (source, name), b"%b/%b" % (destination, name)))
                    else:
                        _move(name, old, new)
        with self._opened(os.path.dirname(path)) as parent, _keeping_times(parent):
            remove_tree(os.path.join(self._upper, path))
        return True

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[int]:
        fd = open_beneath(self._root, path)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Let errors of the block name the folder that it has come to."""
        try:
            yield
        except FailedError as error:
            at = os.path.join(self._upper, self._at)
            raise OperationError.from_os_error(error.cause, at, error.operation) from error
        except OSError as error:
            at = os.path.join(self._upper, self._at)
            raise OperationError.from_os_error(error, at, "make a difference of it") from error


def _escape(file: int | bytes) -> None:
    """Write the attributes of an entry that are called as overlayfs' own in the other way."""
    names = [name for name in list_attributes(file) if name.startswith(_OVERLAY)]
    for name in sorted(names, key=len, reverse=True):  # none in the place of one still to come
        for escaped, value in difference_attributes({name: os.getxattr(file, name)}).items():
            os.setxattr(file, escaped, value)
        os.removexattr(file, name)


def _make_folders(root: int, path: bytes) -> None:
    """Make the folder ``path`` in the open ``root``, and those on the way.

    Raises:
        NotADirectoryError: something else is there; then nothing was made.
    """
    at = os.dup(root)
    try:
        for name in path.split(b"/"):
            with suppress(FileExistsError), _keeping_times(at):
                os.mkdir(name, 0o755, dir_fd=at)
            inside = os.open(name, OPEN_FOLDER, dir_fd=at)
            os.close(at)
            at = inside
    finally:
        os.close(at)


def _are_folders(name: bytes, *folders: int) -> bool:
    with suppress(FileNotFoundError):
        modes = [os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode for fd in folders]
        return all(map(stat.S_ISDIR, modes))
    return False


def _move(name: bytes, old: int, new: int) -> None:
    """Move ``name``, unless another is there: which of them came later, nobody knows."""
    with suppress(FileNotFoundError):
        if not is_whiteout(os.stat(name, dir_fd=new, follow_symlinks=False)):
            return
        os.unlink(name, dir_fd=new)
    os.rename(name, name, src_dir_fd=old, dst_dir_fd=new)


@contextmanager
def _keeping_times(folder: int) -> Iterator[None]:
    """Let the open ``folder`` have the times that it has, whatever the block does in it."""
    status = os.fstat(folder)
    yield
    _set_times(folder, status)


def _set_times(folder: int, status: os.stat_result) -> None:
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
