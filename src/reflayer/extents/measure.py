"""Trees walked by descriptor and added up: alone, or by threads where that takes long.

What is measured may be in use: what is gone by now has nothing, and what this user may not read is
counted as such.
"""

from __future__ import annotations

import errno
import os
import stat
from array import array
from bisect import bisect_left
from contextlib import suppress
from itertools import islice
from threading import RLock
from typing import Any

from reflayer.errors import OperationError, failing
from reflayer.linux import fiemap
from reflayer.linux.btrfs import compressed_extents
from reflayer.linux.names import native
from reflayer.linux.statfs import file_system_name, xfs_inode_size
from reflayer.record import record
from reflayer.walk.folders import OPEN_FILE, OPEN_FOLDER, identity, open_beneath, open_noatime
from reflayer.walk.mounts import is_mounted
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from reflayer.progress import Progress
    from reflayer.walk.folders import AnyPath

    Extent = tuple[int, int, int, int]
    """Place in the file, place on the file system, length, flags: as ``fiemap.extents`` has it."""

    Piece = tuple[int, int, int]
    """Place in the file, place and length on the file system: of ``compressed_extents``."""

    Folders = list[tuple["Tally", bytes]]
    """Trees, and the paths of folders from their roots: what is still to be added."""

_measure_names: Any = getattr(native, "measure_names", None)
_measure_folders: Any = getattr(native, "measure_folders", None)
_ONE_AT_A_TIME = 2  # how to ask XFS
_AT_ONCE = 48 if native else 1  # folders that a call is for: between two calls work is shared
_BATCH = 64  # names read at once in Python
_BLOCK = 512  # bytes of st_blocks, whatever the file system's own are
# Gone or another by now.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})
_NOT_FOR_US = frozenset({errno.EACCES, errno.EPERM})
_CANNOT_TELL = frozenset({errno.EOPNOTSUPP, errno.ENOTTY})
_NO_SIZES = _CANNOT_TELL | _NOT_FOR_US
_SHARING_NOTHING = frozenset({"tmpfs", "ramfs"})  # cannot tell, and need not


@record
class TreeUsage:
    """What a tree has; all sizes in bytes, a file with several names in it counted once.

    Attributes:
        inodes: files of every type, the root included.
        size: lengths of the regular files, as ``ls`` shows them.
        allocated: what it takes if nothing is shared, as ``du`` shows it.
        own: what no other tree has: unshared blocks of data, and what the file system counts
            besides: folders, long extended attributes, XFS's inodes. It is freed with the tree.
        untold: how much of ``own`` may be shared all the same, since the file system does not tell.
        shared: blocks with other owners, here or elsewhere: place and length by turns.
        encoded: the same of compressed data. Its length is what it takes, or where that is not told
            (to others than root, or not by btrfs) what it holds; so are those in ``own``.
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
    """Measure the regular files ``names`` of ``folder``, as if they were a tree without folders."""
    tally = Tally(os.fsencode(folder))
    root = tally.open()
    try:
        for name in names if root >= 0 else ():
            try:
                tally.add_file(name, root, os.stat(name, dir_fd=root, follow_symlinks=False))
            except OSError as error:
                tally.miss(error, os.fsencode(name), "look at")
    finally:
        if root >= 0:
            os.close(root)
    return tally.usage()


def measure_trees(
    paths: Sequence[AnyPath],
    *,
    shared: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[TreeUsage]:
    """Measure the trees at ``paths``; what is gone before it is seen has nothing.

    Other mounts inside are left out.

    Args:
        paths: the trees; none is followed if it is a symbolic link.
        shared: look which blocks have other owners, too. Data that is not written yet is written
            for that, file by file. Otherwise all data is untold.
        workers: threads that work on them, this one included; by default as many as there are
            processors. Small trees never wait for one.
        progress: called some times a second with the stage ``measure`` and the entries so far.

    Raises:
        OperationError: something cannot be read for another reason than its permissions.
    """
    tallies = [Tally(os.fsencode(path), asks=shared) for path in paths]
    told = 0

    def tell() -> None:
        nonlocal told
        seen = sum(tally.entries for tally in tallies)
        if progress is not None and seen > told:
            progress("measure", seen, None)
            told = seen

    threads = Workers(lambda: lambda folders: _measure(folders, threads), workers, None, tell)
    if tallies:
        threads.run([(tally, b"") for tally in reversed(tallies)])
    tell()
    return [tally.usage() for tally in tallies]


def _measure(folders: Folders, workers: Workers) -> None:
    """Add all below ``folders``, but for those that are given to other workers."""
    tree: Tally | None = None
    root = -1
    try:
        while folders:
            half = len(folders) // 2  # the first ones, which are likely the larger half
            if workers.pause() and half and workers.give(folders[:half]):
                del folders[:half]
            tally, relative = folders.pop()
            if tally is not tree:
                if root >= 0:
                    os.close(root)
                tree, root = tally, -1
                root = tally.open()
            if root < 0:
                continue
            if not relative:
                tally.add_other(os.fstat(root))
            some = [relative]
            while folders and folders[-1][0] is tally and len(some) < _AT_ONCE:
                some.append(folders.pop()[1])
            inside, left = tally.add_folders(root, some)
            folders += [(tally, path) for path in (*left[1:], *inside)]
            if left:
                folders += [
                    (tally, path) for path in tally.add_folder(root, left[0], workers.pause)
                ]
    finally:
        if root >= 0:
            os.close(root)


class Tally:
    """The sums of one tree so far; several threads may add to them.

    Attributes:
        entries: names that were met.
    """

    def __init__(self, path: bytes, *, asks: bool = True) -> None:
        """Of the tree at ``path``, with nothing in it yet; ``asks`` where its blocks lie."""
        self.entries = 0
        self._path = path
        self._lock = RLock()
        self._inodes = self._size = self._allocated = self._own = 0
        self._untold = self._unread = 0
        self._inode_size = 0
        self._is_told = asks  # the file system answers FIEMAP
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

    def open(self) -> int:
        """Open the folder, and look at its file system; -1 if it is gone or not for this user."""
        try:
            root = open_noatime(self._path, None, OPEN_FOLDER)
        except OSError as error:
            self.miss(error, b"", "open")
            return -1
        try:
            with failing(self._path, "statfs"):
                name = file_system_name(root)
                self._shares_nothing = name in _SHARING_NOTHING
                if name == "xfs":
                    self._inode_size = xfs_inode_size(root)
        except OperationError:
            os.close(root)
            raise
        return root

    def add_folders(self, root: int, some: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Add all in ``some`` folders; return the paths of those in them, and those left to do."""
        if _measure_names is None:
            return [], some
        paths = tuple([path or b"." for path in some])
        facts, found = _measure_folders(root, paths, self._asks())
        self._add_facts(*facts)
        inside: list[bytes] = []
        for path, (folders, rest) in zip(some, found, strict=False):
            above = path and path + b"/"
            inside += [above + name for name in folders]
            if rest:
                names = [name for _, name in rest]
                inside += self.add_folder(root, path, lambda: None, names)
        return inside, some[len(found) :]

    def _asks(self) -> int:
        """How the part in C is to ask where the data lies."""
        if not self._is_told or self._shares_nothing:
            return 0
        return _ONE_AT_A_TIME if self._inode_size else 1

    def add_folder(
        self,
        root: int,
        relative: bytes,
        pause: Callable[[], object],
        names: list[bytes] | None = None,
    ) -> list[bytes]:
        """Add all in a folder, or some ``names``; return the paths of the folders in it."""
        inside: list[bytes] = []
        try:
            # From the root: a walk that keeps its way open needs a descriptor for each level.
            folder = open_beneath(root, relative, cross_mounts=False)
        except OSError as error:
            if error.errno != errno.EXDEV:  # something is mounted there
                self.miss(error, relative, "open")
            return inside
        try:
            if names is not None:
                return self._add_names(folder, relative, names)
            if _measure_names is None:
                with os.scandir(folder) as scan:
                    while names := [os.fsencode(entry.name) for entry in islice(scan, _BATCH)]:
                        inside += self._add_names(folder, relative, names)
                        pause()
                return inside
            above = relative and relative + b"/"
            left: bytes | None = b""
            while left is not None:
                facts, folders, rest, left = _measure_names(folder, self._asks(), left)
                self._add_facts(*facts)
                inside += [above + name for name in folders]
                if rest:
                    inside += self._add_names(folder, relative, [name for _, name in rest])
                if left is not None:
                    pause()
        except OSError as error:
            self.miss(error, relative, "list")
        finally:
            os.close(folder)
        return inside

    def _add_facts(
        self, inodes: int, size: int, allocated: int, own: int, untold: int, shared: bytes
    ) -> None:
        with self._lock:
            self.entries += inodes
            self._inodes += inodes
            self._size += size
            self._allocated += allocated
            self._own += own + inodes * self._inode_size
            self._untold += 0 if self._shares_nothing else untold
            self._shared.frombytes(shared)

    def _add_names(self, folder: int, relative: bytes, names: list[bytes]) -> list[bytes]:
        inside = []
        for name in names:
            try:
                status = os.lstat(name, dir_fd=folder)
                if stat.S_ISREG(status.st_mode):
                    self.add_file(name, folder, status)
                    continue
            except OSError as error:
                with suppress(OSError):  # it may be gone by now
                    if is_mounted(folder, name):  # it need not even tell its status
                        continue
                self.miss(error, os.path.join(relative, name), "look at")
                continue
            self.add_other(status)
            if stat.S_ISDIR(status.st_mode):
                inside.append(os.path.join(relative, name))
        with self._lock:
            self.entries += len(names)
        return inside

    def add_other(self, status: os.stat_result) -> None:
        """Add an inode that has no blocks to share."""
        allocated = status.st_blocks * _BLOCK
        own = allocated + self._inode_size
        with self._lock:
            if stat.S_ISDIR(status.st_mode) or not self._is_known(status, own):
                self._inodes += 1
                self._allocated += allocated
                self._own += own

    def add_file(self, name: str | bytes, folder: int, status: os.stat_result) -> None:
        """Add the regular file ``name`` of the open ``folder``.

        Raises:
            OSError: it cannot be looked at; where that is for lack of permission, it is added.
        """
        allocated = status.st_blocks * _BLOCK
        found, failure = None, None
        asks = bool(allocated) and not self._shares_nothing
        if asks and identity(status) not in self._linked:
            try:
                found = self._extents(name, folder)
            except PermissionError as error:
                failure = error
        with self._lock:  # meanwhile another thread may have met another name
            own, untold = allocated, allocated if asks else 0
            places, encoded = len(self._shared), len(self._encoded)
            if found is not None:
                extents, allocated, compressed = found
                own, untold = self._unshared(extents, allocated, compressed), 0
            own += self._inode_size
            if self._is_known(status, own, untold):
                del self._shared[places:], self._encoded[encoded:]
                return
            self._inodes += 1
            self._size += status.st_size
            self._allocated += allocated
            self._own += own
            self._untold += untold
        if failure is not None:
            raise failure

    def _is_known(self, status: os.stat_result, own: int, untold: int = 0) -> bool:
        """Whether another name of an inode with several was met before; count this one."""
        if status.st_nlink == 1:
            return False
        mine = [status.st_nlink, own, untold]
        known = self._linked.setdefault(identity(status), mine)
        known[0] -= 1
        return known is not mine

    def _extents(
        self, name: str | bytes, folder: int
    ) -> tuple[list[Extent], int, list[Piece]] | None:
        """The file's extents, all that it takes, and its compressed extents; None if not told."""
        if not self._is_told:
            return None
        fd = open_noatime(name, folder, OPEN_FILE)
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
        """Go on without what is gone or not for this user; any other error is raised."""
        if error.errno in _NOT_FOR_US:
            with self._lock:
                self._unread += 1
        elif error.errno not in _GONE:
            where = os.path.join(self._path, relative) if relative else self._path
            raise OperationError.from_os_error(error, where, operation) from error


def _encoded_bytes(extents: list[Extent]) -> int:
    return sum(length for _, _, length, flags in extents if flags & fiemap.ENCODED)


def on_disk(found: Sequence[Extent], compressed: Sequence[Piece]) -> Iterator[Extent]:
    """``found`` with its compressed extents as in ``compressed``.

    Of one that a file has several parts of, all but the first have no length.
    """
    met: set[int] = set()
    for extent in found:
        logical, _, length, flags = extent
        if not flags & fiemap.ENCODED:
            yield extent
            continue
        # FIEMAP joins two that happen to lie as far apart on the disk as in the file.
        first = bisect_left(compressed, (logical,))
        last = bisect_left(compressed, (logical + length,))
        for offset, place, size in compressed[first:last]:
            yield offset, place, 0 if place in met else size, flags
            met.add(place)
