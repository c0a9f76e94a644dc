"""Walk one tree by descriptor, and add up what it has."""

from __future__ import annotations

import errno
import os
import stat
from array import array
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def measure_tree(path: AnyPath, *, progress: Callable[[int], None] | None = None) -> TreeUsage:
    """Measure the tree, or the file, at ``path``; what is gone before it is seen has nothing.

    Other mounts inside are left out. Data that is not written yet is written, file by file.

    Args:
        path: is not followed if it is a symbolic link.
        progress: is called after each folder with the entries that were in it.

    Raises:
        OperationError: something cannot be read for another reason than its permissions.
    """
    where = os.fsencode(path)
    tally = _Tally(where)
    try:
        status = os.lstat(where)
        if not stat.S_ISDIR(status.st_mode):
            tally.add(where, None, status)
            return tally.usage()
        root = open_source(where, None, OPEN_FOLDER)
    except OSError as error:
        tally.miss(error, b"", "open")
        return tally.usage()
    try:
        tally.begin(root)
        tally.add_other(status)
        for folder, relative in _folders(root, tally):
            entries = tally.add_folder(folder, relative)
            if progress is not None:
                progress(entries)
    finally:
        os.close(root)
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

    def begin(self, root: int) -> None:
        """Look at the file system that the open folder ``root`` is on."""
        try:
            name = file_system_name(root)
            self._shares_nothing = name in _SHARING_NOTHING
            if name == "xfs":
                from reflayer.linux.xfs_geometry import inode_size

                self._inode_size = inode_size(root)
        except OSError as error:
            raise OperationError.from_os_error(error, self._path, "statfs") from error

    def add_folder(self, folder: int, relative: bytes) -> int:
        """Add all in the open ``folder``, note the folders in it; return how many entries."""
        entries = 0
        try:
            # Bytes would be listed by a path; the names are those bytes all the same.
            with os.scandir(folder) as scan:
                for entry in scan:
                    entries += 1
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        self.miss(error, os.path.join(relative, os.fsencode(entry.name)), "stat")
                        continue
                    if stat.S_ISDIR(status.st_mode):
                        self.add_other(status)
                        self.pending.append(os.path.join(relative, os.fsencode(entry.name)))
                    else:
                        self.add(entry.name, folder, status, relative)
        except OSError as error:
            self.miss(error, relative, "list")
        return entries

    def add_other(self, status: os.stat_result) -> None:
        """Add an inode that has no data of its own to share."""
        self._inodes += 1
        allocated = status.st_blocks * _BLOCK
        self._allocated += allocated
        self._own += allocated + self._inode_size

    def add(
        self,
        name: str | bytes,
        folder: int | None,
        status: os.stat_result,
        relative: bytes = b"",
    ) -> None:
        """Add ``name`` of the open ``folder``, which is anything but a folder."""
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            if (known := self._linked.get(key)) is not None:
                known[0] -= 1
                return
            before, untold = self._own, self._untold
            self._add_once(name, folder, status, relative)
            self._linked[key] = [
                status.st_nlink - 1, self._own - before, self._untold - untold
            ]  # fmt: skip
        else:
            self._add_once(name, folder, status, relative)

    def _add_once(
        self, name: str | bytes, folder: int | None, status: os.stat_result, relative: bytes
    ) -> None:
        if not stat.S_ISREG(status.st_mode):
            self.add_other(status)
            return
        self._size += status.st_size
        allocated = status.st_blocks * _BLOCK
        if not allocated or self._shares_nothing:
            self.add_other(status)
            return
        found = self._extents(name, folder, relative) if self._is_told else None
        self.add_other(status)
        if found is None:
            self._untold += allocated
        else:
            self._own += self._beyond_shared(found, allocated) - allocated

    def _extents(
        self, name: str | bytes, folder: int | None, relative: bytes
    ) -> list[tuple[int, int, int, int]] | None:
        """The file's extents; None where they cannot be told."""
        try:
            fd = open_source(name, folder, OPEN_FILE)
            try:
                return fiemap.extents(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _CANNOT_TELL:
                self._is_told = False
            else:
                self.miss(error, os.path.join(relative, os.fsencode(name)), "look at")
            return None

    def _beyond_shared(self, found: list[tuple[int, int, int, int]], allocated: int) -> int:
        """Note the shared ones of a file's extents; return how many bytes are its own.

        What is ``allocated`` besides the extents, for a long map of them or for extended
        attributes, is; what is inline belongs to metadata of which nothing is told.
        """
        told = own = 0
        for _, place, length, flags in found:
            if flags & fiemap.INLINE:
                return 0
            told += length
            if not flags & fiemap.SHARED or flags & fiemap.UNKNOWN:
                own += length
            elif flags & fiemap.ENCODED:
                self._encoded.extend((place, length))
            else:
                self._shared.extend((place, length))
        return own + max(0, allocated - told)

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
