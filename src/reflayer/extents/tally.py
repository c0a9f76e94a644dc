"""The sums of one tree, file by file."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reflayer.copy.folder import OPEN_FILE, OPEN_FOLDER, open_source
from reflayer.copy.mounts import is_mounted
from reflayer.errors import OperationError
from reflayer.extents.compressed import on_disk
from reflayer.extents.usage import TreeUsage
from reflayer.linux import fiemap
from reflayer.linux.btrfs_extents import compressed_extents
from reflayer.linux.statfs import file_system_name
from reflayer.linux.xfs_geometry import inode_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.extents.compressed import Extent, Piece

_BLOCK = 512  # bytes of st_blocks, whatever the file system's own are
# Gone or another by now: what is measured may be in use.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
_NOT_FOR_US = frozenset({errno.EACCES, errno.EPERM})
_CANNOT_TELL = frozenset({errno.EOPNOTSUPP, errno.ENOTTY})
_NO_SIZES = _CANNOT_TELL | _NOT_FOR_US
_SHARING_NOTHING = frozenset({"tmpfs", "ramfs"})  # cannot tell, and need not


class Tally:
    """The sums so far, and the folders that are still to be read.

    Attributes:
        pending: paths of those folders, from the root.
    """

    def __init__(self, path: bytes) -> None:
        """Of the tree at ``path``, with nothing in it yet."""
        self.pending: list[bytes] = []
        self._path = path
        self._inodes = self._size = self._allocated = self._own = 0
        self._untold = self._unread = 0
        self._inode_size = 0
        self._is_told = True  # the file system answers FIEMAP
        self._has_sizes = True  # it tells what compressed data takes
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
                        if is_mounted(folder, name):  # it need not even tell its status
                            continue
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
                extents, allocated, compressed = found
                own = self._unshared(extents, allocated, compressed)
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

    def _extents(self, name: str, folder: int) -> tuple[list[Extent], int, list[Piece]] | None:
        """The file's extents, all that it takes, and the sizes of its compressed extents.

        None where the file system does not tell.
        """
        if not self._is_told:
            return None
        fd = open_source(name, folder, OPEN_FILE)
        try:
            extents = fiemap.extents(fd)
            compressed = self._compressed(fd, extents)
            # Only now: what was not written yet may have had more set aside for it.
            return extents, os.fstat(fd).st_blocks * _BLOCK, compressed
        except OSError as error:
            if error.errno not in _CANNOT_TELL:
                raise
            self._is_told = False
            return None
        finally:
            os.close(fd)

    def _compressed(self, fd: int, extents: list[Extent]) -> list[Piece]:
        for extent in extents:
            if extent[3] & fiemap.ENCODED and self._has_sizes:
                break
        else:
            return []
        try:
            return compressed_extents(fd)
        except OSError as error:
            if error.errno not in _NO_SIZES:
                raise
            self._has_sizes = False
            return []

    def _unshared(self, found: list[Extent], allocated: int, compressed: list[Piece]) -> int:
        """Note the shared ones of a file's extents; return how many bytes are its own.

        What is ``allocated`` besides the extents, for a long map of them or for extended
        attributes, is; what is inline belongs to metadata of which nothing is told.
        """
        own = allocated
        if compressed:
            own -= _encoded_bytes(found)
            found = list(on_disk(found, compressed))
            own += _encoded_bytes(found)
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


def _encoded_bytes(extents: list[Extent]) -> int:
    return sum(length for _, _, length, flags in extents if flags & fiemap.ENCODED)
