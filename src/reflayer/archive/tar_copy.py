"""The method ``tar``: a tree packed by one thread and made again, out of the tar, by another.

What moves a tree where the kernel is not asked to, kept to compare with. The tar never leaves this
process, and it holds what the writer knows: times in nanoseconds, attributes, holes, hard links of
every type. Its names are names and nothing else, those that mean something in a layer, too. It is
unpacked by descriptors alone: no name is looked up but in the folder that has just been made.
"""

from __future__ import annotations

import os
import time
from contextlib import closing

from reflayer.archive import tar_header as types
from reflayer.archive.compression import ReadAhead
from reflayer.archive.files import pwrite_all
from reflayer.archive.pack import Packing
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.archive.tree_diff import TreeDiff
from reflayer.errors import ArchiveError, CopyError, OperationError
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import (
    NEW_FILE,
    OPEN_FOLDER,
    Folder,
    FolderStack,
    identity,
    open_beneath,
)
from reflayer.walk.metadata import Metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

    from reflayer.archive.compare import FolderPair
    from reflayer.archive.tar_header import Entry
    from reflayer.copy import folder
    from reflayer.copy.folder import Job
    from reflayer.copy.tree import Counts
    from reflayer.progress import Progress


_TELL = 0.1  # seconds between two calls of a progress callback
_SPECIAL_BITS = 0o7000
_KINDS = {
    types.FILE: "file",
    types.DIRECTORY: "directory",
    types.SYMLINK: "symlink",
    types.HARD_LINK: "hardlink",
    types.FIFO: "fifo",
    types.CHAR: "char",
    types.BLOCK_DEVICE: "block",
}


def copy_as_tar(job: Job, root: folder.Folder, progress: Progress | None) -> Counts:
    """Copy ``root``, its own metadata too, and close it; after an error what was made stays."""
    path = b"/proc/self/fd/%d" % root.src
    packing = Packing(_Walk(path, job), is_layer=False, is_copy=True, ids=job.source.ids)
    unpacker = _Unpacker(job, root.dst, progress)
    try:
        with closing(iter(packing)) as pieces, ReadAhead(_Reader(pieces), None) as ahead:
            unpacker.unpack(TarStream(iter(ahead), is_own=True))
    except CopyError:
        raise
    except OperationError as error:
        at = os.fsencode(error.path)[len(path) :].lstrip(b"/")
        raise CopyError(job.path(at), error.operation, error.reason, error.errno) from error
    except ArchiveError as error:
        at = os.fsencode(error.entry or "")
        raise CopyError(job.path(at), "unpack", error.reason) from error
    finally:
        root.close()
    for kind, count in packing.skipped.items():
        unpacker.metadata.skipped[kind] = unpacker.metadata.skipped.get(kind, 0) + count
    unpacker.tell()
    return unpacker.made, {"tar": unpacker.moved}, unpacker.metadata.skipped


class _Walk(TreeDiff):
    """A walk over a source, which must not hold the destination."""

    def __init__(self, root: bytes, job: Job) -> None:
        super().__init__(root, cross_mounts=job.cross_mounts)
        self._destination = job.root

    def _enter(
        self, above: FolderPair, name: bytes, status: os.stat_result, before: os.stat_result | None
    ) -> None:
        if identity(status) == self._destination:
            reason = "the destination is inside the source"
            raise OperationError(self.path(above, name), "copy", reason)
        super()._enter(above, name, status, before)


class _Reader:
    """A tar that is packed as it is read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer``; less only at the end of the tar."""
        view = memoryview(buffer)
        at = 0
        while at < len(view):
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    break
            part = self._rest[: len(view) - at]
            self._rest = self._rest[len(part) :]
            view[at : at + len(part)] = part
            at += len(part)
        return at


class _Unpacker:
    """Makes a tree from its tar, in which each folder comes before what is in it."""

    def __init__(self, job: Job, root: int, progress: Progress | None) -> None:
        self.made = {"file": 0, "directory": 0}
        self.moved = 0  # bytes of content
        self.metadata = Metadata(job.ownership)
        self._job = job
        self._to_chmod = job.new.umask | _SPECIAL_BITS
        self._root = root
        self._progress = progress
        self._told = time.monotonic()
        self._stack = FolderStack[_Level]()
        self._left_out: set[bytes] = set()

    def tell(self) -> None:
        if self._progress is not None:
            self._told = time.monotonic()
            self._progress("clone", sum(self.made.values()), None)

    def unpack(self, stream: TarStream) -> None:
        with self._stack:
            for entry in read_entries(stream):
                try:
                    self._make(entry, stream)
                except (FailedError, OSError) as error:
                    raise self._failure(entry, "unpack", error) from error
                if time.monotonic() - self._told > _TELL:
                    self.tell()
            while self._stack:
                self._leave()

    def _make(self, entry: Entry, stream: TarStream) -> None:
        path = entry.name.rstrip(b"/")
        if path == b".":
            self._stack.push(_Level(None, b"", entry, os.dup(self._root), 0o700))
            self.made["directory"] += 1
            return
        above, _, name = path.rpartition(b"/")
        while self._stack[-1].below_root != above:
            self._leave()
        folder = self._stack[-1].fd
        kind = _KINDS[entry.type]
        if kind == "directory":
            os.mkdir(name, self._job.folder_mode, dir_fd=folder)
            fd = os.open(name, OPEN_FOLDER, dir_fd=folder)
            self._stack.push(_Level(self._stack[-1], path, entry, fd, self._job.folder_mode))
        elif kind == "hardlink":
            if not self._link(name, folder, entry.target):
                return
        else:
            mode = self._job.new.creation_mode(entry.mode, bool(entry.attributes))
            if kind == "file":
                fd = os.open(name, NEW_FILE, mode, dir_fd=folder)
                try:
                    self._fill(fd, entry, stream)
                finally:
                    os.close(fd)
            elif kind == "symlink":
                os.symlink(entry.target, name, dir_fd=folder)
            elif not self._make_special(name, folder, kind, mode, entry):
                self._left_out.add(path)
                return
            is_right = kind == "symlink" or not entry.mode & self._to_chmod
            self._finish(folder, name, entry, is_right)
        self.made[kind] = self.made.get(kind, 0) + 1

    def _make_special(self, name: bytes, folder: int, kind: str, mode: int, entry: Entry) -> bool:
        """Make a device or FIFO; False where it is left out."""
        try:
            device = os.makedev(*entry.device)
            os.mknod(name, types.MODES[entry.type] | mode, device, dir_fd=folder)
        except PermissionError as error:
            if kind == "fifo":
                raise
            if not self.metadata.refused("device", error):
                raise FailedError("mknod", error) from error
            return False
        return True

    def _fill(self, fd: int, entry: Entry, stream: TarStream) -> None:
        parts = [(0, entry.size)] if entry.sparse is None else entry.sparse
        if entry.sparse is not None:
            os.ftruncate(fd, entry.sparse.size)
        for offset, size in parts:
            end = offset + size
            self.moved += size
            while offset < end:
                piece = stream.data(end - offset)
                pwrite_all(fd, piece, offset)
                offset += len(piece)

    def _link(self, name: bytes, folder: int, target: bytes) -> bool:
        """Give an inode a further name; False where it was left out."""
        if target in self._left_out:
            self.metadata.skip("device")
            return False
        above, _, first = target.rpartition(b"/")
        at = open_beneath(self._root, above)
        try:
            os.link(first, name, src_dir_fd=at, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(at)
        return True

    def _leave(self) -> None:
        """Close the innermost folder, all in which is made, and set its metadata."""
        level = self._stack[-1]
        try:
            self._stack.reopen_parent()
            self._stack.pop()
            folder, name = (self._stack[-1].fd, level.name) if self._stack else (level.fd, b".")
            self._finish(folder, name, level.entry, level.entry.mode == level.mode)
        except (FailedError, OSError) as error:
            raise self._failure(level.entry, "set its times", error) from error
        finally:
            level.close()

    def _finish(self, folder: int, name: bytes, entry: Entry, has_mode: bool) -> None:
        """Set all of ``name`` in ``folder``; ``has_mode``: only an ACL may have changed that."""
        new = self._job.new
        mode = None if entry.type == types.SYMLINK else entry.mode if has_mode else -1
        self.metadata.set_all_at(folder, name, entry, new.uid, new.gid, mode)

    def _failure(self, entry: Entry, operation: str, error: FailedError | OSError) -> CopyError:
        if isinstance(error, FailedError):
            operation, error = error.operation, error.cause
        name = entry.name.rstrip(b"/")
        path = self._job.path(b"" if name == b"." else name)
        return CopyError.from_os_error(error, path, operation)


class _Level(Folder):
    """A folder that is being filled: its path in the tar, its entry, and the mode that it has."""

    __slots__ = ("below_root", "entry", "mode")

    def __init__(
        self, parent: _Level | None, path: bytes, entry: Entry, fd: int, mode: int
    ) -> None:
        super().__init__(parent, path.rpartition(b"/")[2], fd, -1, os.fstat(fd))
        self.below_root = path
        self.entry = entry
        self.mode = mode
