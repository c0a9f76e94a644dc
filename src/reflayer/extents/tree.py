"""Walk one tree by descriptor, and add up what it has."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflayer.copy.folder import OPEN_FILE, OPEN_FOLDER, open_source
from reflayer.errors import OperationError
from reflayer.linux import fiemap
from reflayer.linux.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from reflayer.linux.statfs import file_system_name
from reflayer.linux.xfs_geometry import inode_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reflayer.copy.paths import AnyPath

_BLOCK = 512  # bytes of st_blocks, whatever the file system's own are
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_MOST_PATH = 4000  # bytes: openat2(2) takes less than PATH_MAX at once
# Gone or another by now: what is measured may be in use.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
_NOT_FOR_US = frozenset({errno.EACCES, errno.EPERM})
_CANNOT_TELL = frozenset({errno.EOPNOTSUPP, errno.ENOTTY})
_SHARING_NOTHING = frozenset({"tmpfs", "ramfs"})  # cannot tell, and need not


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """What a tree has; all sizes in bytes, a file with several names in it counted once.

    Attributes:
        inodes: files of every type, the root included.
        size: lengths of the regular files, as ``ls`` shows them.
        allocated: what it takes if nothing is shared, as ``du`` shows it.
        own: what nobody else has: unshared blocks of data, and what the file system counts
            besides: folders, long extended attributes, XFS's inodes. It is freed with the tree.
        untold: how much of ``own`` may be shared all the same, since nobody tells.
        shared: blocks with other owners, here or elsewhere: place and length by turns.
        encoded: the same of compressed data, whose length is that of what it holds.
        unread: files and folders that this user may not read.
    """

    inodes: int
    size: int
    allocated: int
    own: int
    untold: int
    shared: array[int]
    encoded: array[int]
    unread: int


def measure_files(folder: AnyPath, names: Iterable[str]) -> TreeUsage:
    """Measure the regular files ``names`` of ``folder``, as if they were a tree without folders.

    Raises:
        OperationError: as ``measure_tree`` does.
    """
    tally = _Tally(os.fsencode(folder))
    with tally.opened() as root:
        for name in names if root >= 0 else ():
            try:
                tally.add_file(name, root, os.stat(name, dir_fd=root, follow_symlinks=False))
            except OSError as error:
                tally.miss(error, os.fsencode(name), "look at")
    return tally.usage()


def measure_tree(path: AnyPath, *, progress: Callable[[int], None] | None = None) -> TreeUsage:
    """Measure the tree at ``path``; what is gone before it is seen has nothing.

    Other mounts inside are left out. Data that is not written yet is written, file by file.

    Args:
        path: is not followed if it is a symbolic link.
        progress: is called after each folder with the entries that were in it.

    Raises:
        OperationError: something cannot be read for another reason than its permissions.
    """
    tally = _Tally(os.fsencode(path))
    with tally.opened() as root:
        if root >= 0:
            tally.add_other(os.fstat(root))
            for folder, relative in _folders(root, tally):
                entries = tally.add_folder(folder, relative)
                if progress is not None:
                    progress(entries)
    return tally.usage()


def _folders(root: int, tally: _Tally) -> Iterator[tuple[int, bytes]]:
    """Each folder, open until the next is asked for, and its path from the root."""
    tally.pending.append(b"")
    while tally.pending:
        relative = tally.pending.pop()
        try:
            folder = _open_beneath(root, relative or b".")
        except OSError as error:
            if error.errno != errno.EXDEV:  # something is mounted there
                tally.miss(error, relative, "open")
            continue
        try:
            yield folder, relative
        finally:
            os.close(folder)


def _open_beneath(root: int, path: bytes) -> int:
    """Open a folder by its path from ``root``, of any length.

    From the root, since a walk that keeps its way open would need a descriptor for each level.

    Raises:
        OSError: EXDEV where something is mounted on the way; otherwise as openat2(2) says.
    """
    fd = -1
    while len(path) > _MOST_PATH:
        cut = path.rindex(b"/", 0, _MOST_PATH)
        fd, path = _step(root, fd, path[:cut]), path[cut + 1 :]
    return _step(root, fd, path)


def _step(root: int, fd: int, path: bytes) -> int:
    try:
        return openat2(root if fd < 0 else fd, path, OPEN_FOLDER, _BENEATH)
    finally:
        if fd >= 0:
            os.close(fd)


class _Tally:
    """The sums so far, and the folders that are still to be read."""

    def __init__(self, path: bytes) -> None:
        self.pending: list[bytes] = []
        self._path = path
        self._inodes = self._size = self._allocated = self._own = 0
        self._untold = self._unread = 0
        self._inode_size = 0
        self._is_told = True  # the file system answers FIEMAP
        self._shares_nothing = False
        self._shared = array("Q")
        self._encoded = array("Q")
        # Of inodes with several names: how many were not met yet, what it has of its own, and how
        # much of that is untold.
        self._linked: dict[tuple[int, int], list[int]] = {}

    def usage(self) -> TreeUsage:
        """The sums. A file that has other names outside the tree is not freed with it."""
        kept = [entry for entry in self._linked.values() if entry[0] > 0]
        return TreeUsage(
            self._inodes,
            self._size,
            self._allocated,
            self._own - sum(entry[1] for entry in kept),
            self._untold - sum(entry[2] for entry in kept),
            self._shared,
            self._encoded,
            self._unread,
        )

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The folder, open for the block, after a look at its file system; -1 if it is not there.

        Raises:
            OperationError: it cannot be opened for another reason than its permissions.
        """
        try:
            root = open_source(self._path, None, OPEN_FOLDER)
        except OSError as error:
            self.miss(error, b"", "open")
            yield -1
            return
        try:
            self._look_at_file_system(root)
            yield root
        finally:
            os.close(root)

    def _look_at_file_system(self, root: int) -> None:
        try:
            name = file_system_name(root)
            self._shares_nothing = name in _SHARING_NOTHING
            if name == "xfs":
                self._inode_size = inode_size(root)
        except OSError as error:
            raise OperationError.from_os_error(error, self._path, "statfs") from error

    def add_folder(self, folder: int, relative: bytes) -> int:
        """Add all in the open ``folder``, note the folders in it; return how many entries."""
        entries = 0
        try:
            with os.scandir(folder) as scan:
                for entry in scan:
                    entries += 1
                    name = entry.name
                    try:
                        status = entry.stat(follow_symlinks=False)
                        kind = stat.S_IFMT(status.st_mode)
                        if kind == stat.S_IFREG:
                            self.add_file(name, folder, status)
                            continue
                    except OSError as error:
                        self.miss(error, os.path.join(relative, os.fsencode(name)), "look at")
                        continue
                    if kind == stat.S_IFDIR:
                        self.pending.append(os.path.join(relative, os.fsencode(name)))
                        self.add_other(status)
                    elif status.st_nlink == 1 or not self._is_known(status):
                        self.add_other(status)
                        self._note_names(status, status.st_blocks * _BLOCK + self._inode_size)
        except OSError as error:
            self.miss(error, relative, "list")
        return entries

    def add_other(self, status: os.stat_result) -> None:
        """Add an inode that has no blocks to share."""
        allocated = status.st_blocks * _BLOCK
        self._inodes += 1
        self._allocated += allocated
        self._own += allocated + self._inode_size

    def add_file(self, name: str, folder: int, status: os.stat_result) -> None:
        """Add the regular file ``name`` of the open ``folder``.

        Raises:
            OSError: it cannot be looked at; where that is for lack of permission, it is added.
        """
        if status.st_nlink > 1 and self._is_known(status):
            return
        allocated = status.st_blocks * _BLOCK
        own, untold, failure = allocated, 0, None
        if allocated and not self._shares_nothing:
            try:
                found = self._extents(name, folder)
            except PermissionError as error:
                found, failure = None, error
            if found is None:
                untold = allocated
            else:
                extents, allocated = found
                own = self._unshared(extents, allocated)
        own += self._inode_size
        self._inodes += 1
        self._size += status.st_size
        self._allocated += allocated
        self._own += own
        self._untold += untold
        if status.st_nlink > 1:
            self._note_names(status, own, untold)
        if failure is not None:
            raise failure

    def _is_known(self, status: os.stat_result) -> bool:
        """Whether another name of an inode with several was met before; count this one."""
        known = self._linked.get((status.st_dev, status.st_ino))
        if known is not None:
            known[0] -= 1
        return known is not None

    def _note_names(self, status: os.stat_result, own: int, untold: int = 0) -> None:
        if status.st_nlink > 1:
            self._linked[status.st_dev, status.st_ino] = [status.st_nlink - 1, own, untold]

    def _extents(
        self, name: str, folder: int
    ) -> tuple[list[tuple[int, int, int, int]], int] | None:
        """The file's extents, and all that it takes; None where the file system does not tell."""
        if not self._is_told:
            return None
        fd = open_source(name, folder, OPEN_FILE)
        try:
            extents = fiemap.extents(fd)
            # Only now: what was not written yet may have had more set aside for it.
            return extents, os.fstat(fd).st_blocks * _BLOCK
        except OSError as error:
            if error.errno not in _CANNOT_TELL:
                raise
            self._is_told = False
            return None
        finally:
            os.close(fd)

    def _unshared(self, found: list[tuple[int, int, int, int]], allocated: int) -> int:
        """Note the shared ones of a file's extents; return how many bytes are its own.

        What is ``allocated`` besides the extents, for a long map of them or for extended
        attributes, is; what is inline belongs to metadata of which nothing is told.
        """
        own = allocated
        for _, place, length, flags in found:
            if flags & fiemap.INLINE:
                return 0
            if flags & fiemap.SHARED and not flags & fiemap.UNKNOWN:
                own -= length
                kept = self._encoded if flags & fiemap.ENCODED else self._shared
                kept.append(place)
                kept.append(length)
        return max(0, own)

    def miss(self, error: OSError, relative: bytes, operation: str) -> None:
        """Go on without what is gone or not for us.

        Raises:
            OperationError: for every other reason.
        """
        if error.errno in _NOT_FOR_US:
            self._unread += 1
        elif error.errno not in _GONE:
            where = os.path.join(self._path, relative) if relative else self._path
            raise OperationError.from_os_error(error, where, operation) from error
