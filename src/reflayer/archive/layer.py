"""The entries of a layer, made in its root one by one."""

from __future__ import annotations

import os
import stat

from reflayer.archive import tar_header as types
from reflayer.archive.files import Files
from reflayer.archive.folders import failure
from reflayer.archive.tar_header import clean_path
from reflayer.archive.tar_reader import TarStream
from reflayer.archive.whiteouts import (
    AUFS_INODES,
    WHITEOUT_PREFIX,
    apply_whiteout,
    is_aufs_metadata,
)
from reflayer.errors import ArchiveError, printable
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import NEW_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.archive.folders import Folders
    from reflayer.archive.id_map import IdMap
    from reflayer.archive.layer_metadata import LayerFolder
    from reflayer.archive.tar_header import Entry, SparseMap

_BLOCK = 4096  # bytes; of most file systems, and a hole is whole blocks
_ZEROS = bytes(_BLOCK)
_MOST_MAJOR, _MOST_MINOR = (1 << 12) - 1, (1 << 20) - 1  # linux/kdev_t.h
_OPERATIONS = {
    types.FILE: "write the file",
    types.HARD_LINK: "link",
    types.SYMLINK: "symlink",
    types.DIRECTORY: "mkdir",
}


class Layer:
    """Applies entries to a root; ``files`` makes ordinary files behind."""

    def __init__(self, folders: Folders, stream: TarStream, id_map: IdMap | None = None) -> None:
        """Entries are made in ``folders``; the data of the one at hand comes from ``stream``.

        Their ids are a container's if there is an ``id_map``.
        """
        self._folders = folders
        self._metadata = folders.metadata
        self._stream = stream
        self._id_map = id_map
        self.files = Files(folders.metadata, stream, self._make_again)
        folders.settle = self.files.settle
        folders.other = self.files.other
        self._left_out: set[bytes] = set()  # devices, by path
        self._has_aufs_inodes = False

    def apply(self, entry: Entry) -> None:
        """Make what ``entry`` says."""
        self._doing(entry, self._apply, entry)

    def _doing(self, entry: Entry, do: Callable[..., None], *arguments: object) -> None:
        try:
            do(*arguments)
        except ArchiveError as error:
            if error.entry is not None:
                raise
            raise ArchiveError(error.reason, entry.name or b".") from error
        except (FailedError, OSError) as error:
            operation = _OPERATIONS.get(entry.type, "mknod")
            raise failure(error, self._folders.root_path, entry.name, operation) from error

    def _apply(self, entry: Entry) -> None:
        path = clean_path(entry.name)
        above, _, name = path.rpartition(b"/")
        if name.startswith(WHITEOUT_PREFIX):
            if not is_aufs_metadata(path):
                self.files.settle()
                apply_whiteout(self._folders, above, name)
            return
        if entry.attributes:
            entry.attributes = self._metadata.of_tree(entry.attributes)
        if self._id_map is not None:
            entry.uid, entry.gid = self._id_map.to_host(entry.uid, entry.gid)
            entry.attributes = self._id_map.attributes_to_host(entry.attributes)
        if not path:
            self._apply_root(entry)
        elif not is_aufs_metadata(path):
            self._make(path, above, name, entry)
        elif above == AUFS_INODES and entry.type == types.FILE:
            self._has_aufs_inodes = True
            self._make(path, above, name, entry)

    def finish(self) -> None:
        """Have all made, and take away what was there for links to it alone."""
        self.files.settle()
        if self._has_aufs_inodes:
            self._folders.remove(self._folders.root, AUFS_INODES)

    def _make(self, path: bytes, above: bytes, name: bytes, entry: Entry) -> None:
        if entry.type == types.HARD_LINK:
            self._make_hard_link(path, above, name, entry)
            return
        folder = self._folders.at(above)
        if entry.type == types.DIRECTORY:
            self._folders.enter(folder, name, path, entry)
        elif entry.type == types.FILE and self.files.add(folder, name, entry):
            self._folders.upper_paths.add(folder, name)
        else:
            self.files.other(folder, name)
            if entry.type == types.FILE:
                self._make_file(folder, name, entry, self._stream)
            else:
                self._make_special(folder, name, entry)

    def _apply_root(self, entry: Entry) -> None:
        if entry.type != types.DIRECTORY:
            raise ArchiveError("it is the layer's root, and no folder")
        self.files.settle()
        self._metadata.clear_attributes(self._folders.root, entry.attributes)
        self._metadata.enter_folder(self._folders.root, entry)

    def _make_again(self, folder: LayerFolder, name: bytes, entry: Entry, data: memoryview) -> None:
        """Make a file that the part in C could not."""
        stream = TarStream(iter((data,)))
        stream.left = len(data)
        self._doing(entry, self._make_file, folder, name, entry, stream)

    def _make_file(self, folder: LayerFolder, name: bytes, entry: Entry, stream: TarStream) -> None:
        mode = self._metadata.creation_mode(entry)
        try:
            fd = os.open(name, NEW_FILE, mode, dir_fd=folder.fd)
        except FileExistsError:
            self._folders.remove(folder, name)
            fd = os.open(name, NEW_FILE, mode, dir_fd=folder.fd)
        try:
            if entry.size or entry.sparse:
                write_data(fd, stream, entry.sparse)
            self._metadata.finish_file(fd, folder, entry)
        finally:
            os.close(fd)
        self._folders.upper_paths.add(folder, name)

    def _make_special(self, folder: LayerFolder, name: bytes, entry: Entry) -> None:
        is_device = entry.type in (types.CHAR, types.BLOCK_DEVICE)
        try:
            self._replace(folder, name, lambda: _make_at(folder.fd, name, entry))
        except PermissionError as error:
            if not is_device or not self._metadata.refused("device", error):
                raise
            self._left_out.add(clean_path(entry.name))
            return
        self._metadata.finish_at(name, folder, entry)
        self._folders.upper_paths.add(folder, name)

    def _make_hard_link(self, path: bytes, above: bytes, name: bytes, entry: Entry) -> None:
        """Give an inode another name, and all that the entry says, as Docker and containerd do."""
        target = clean_path(entry.target)
        if not target:
            raise ArchiveError("it links to the layer's root, which is a folder")
        self.files.settle()
        target_above, _, target_name = target.rpartition(b"/")
        source = self._folders.existing(target_above)
        if source is None:
            raise ArchiveError(f"it links to {printable(target)}, which is not there")
        src = os.dup(source.fd)  # that folder may be shut while the other is found
        try:
            folder = self._folders.at(above)
            self.files.other(folder, name)
            status = os.stat(target_name, dir_fd=src, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise ArchiveError(f"it links to {printable(target)}, which is a folder")
            if not _is_inode(status, folder.fd, name):
                self._replace(folder, name, lambda: _link(src, target_name, folder.fd, name))
            self._folders.upper_paths.add(folder, name)
            if target_above != AUFS_INODES:  # what is there has a header of its own
                self._metadata.finish_link(name, folder, entry, status)
        except FileNotFoundError as error:
            if target not in self._left_out:
                reason = f"it links to {printable(target)}, which is not there"
                raise ArchiveError(reason) from error
            self._left_out.add(path)
            self._metadata.skip("device")
        finally:
            os.close(src)

    def _replace(self, folder: LayerFolder, name: bytes, make: Callable[[], None]) -> None:
        """Make ``name`` in ``folder``, in place of what may be there."""
        try:
            make()
        except FileExistsError:
            self._folders.remove(folder, name)
            make()


def _make_at(dir_fd: int, name: bytes, entry: Entry) -> None:
    """Make the symbolic link, device or FIFO ``name``."""
    if entry.type == types.SYMLINK:
        if not entry.target:
            raise ArchiveError("it is a symbolic link to nowhere")
        os.symlink(entry.target, name, dir_fd=dir_fd)
        return
    major, minor = entry.device
    if not (0 <= major <= _MOST_MAJOR and 0 <= minor <= _MOST_MINOR):
        raise ArchiveError(f"its device number {major}:{minor} is out of range")
    mode = types.MODES[entry.type] | entry.mode & 0o777
    os.mknod(name, mode, os.makedev(major, minor), dir_fd=dir_fd)


def _link(src: int, target: bytes, dst: int, name: bytes) -> None:
    os.link(target, name, src_dir_fd=src, dst_dir_fd=dst, follow_symlinks=False)


def _is_inode(status: os.stat_result, dst: int, name: bytes) -> bool:
    """Whether the name is of the inode already: it would be lost if it were replaced."""
    try:
        there = os.stat(name, dir_fd=dst, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, status)


def write_data(fd: int, stream: TarStream, sparse: SparseMap | None) -> None:
    """Write all data of the entry at hand to the new, empty file ``fd``.

    What its map says are holes come out as holes, and so do blocks of zeros, since not every
    program that makes layers knows of maps.
    """
    if sparse is None:
        _write_unmapped(fd, stream, stream.left)
        return
    # First: a file system that expects a growing file to go on growing would fill the holes.
    os.ftruncate(fd, sparse.size)
    for offset, length in sparse:
        _write_span(fd, stream, offset, length)


def _write_unmapped(fd: int, stream: TarStream, size: int) -> None:
    piece = stream.data(size)
    if size < _BLOCK and len(piece) == size:
        _pwrite_all(fd, piece, 0)
        return
    islands = list(_islands(piece, 0))
    if len(piece) < size or islands != [(0, size)]:
        os.ftruncate(fd, size)
    for start, end in islands:
        _pwrite_all(fd, piece[start:end], start)
    _write_span(fd, stream, len(piece), size - len(piece))


def _write_span(fd: int, stream: TarStream, offset: int, size: int) -> None:
    while size:
        piece = stream.data(size)
        for start, end in _islands(piece, offset):
            _pwrite_all(fd, piece[start:end], offset + start)
        offset += len(piece)
        size -= len(piece)


def _islands(piece: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """Where ``piece``, which belongs at ``offset``, is more than zeros.

    It is looked at by the file's blocks, and by what the piece has of a block at its ends. That the
    first byte is none of zeros tells of most, and of all of them in one call.
    """
    head = min(-offset % _BLOCK, len(piece))
    start = head if head and _is_zeros(piece[:head]) else 0
    firsts = piece[head::_BLOCK].tobytes()
    number = firsts.find(0)
    while number >= 0:
        at = head + number * _BLOCK
        block = piece[at : at + _BLOCK]
        if _is_zeros(block):
            if start < at:
                yield start, at
            start = at + len(block)
        number = firsts.find(0, number + 1)
    if start < len(piece):
        yield start, len(piece)


def _is_zeros(block: memoryview) -> bool:
    return block[-1] == 0 and _ZEROS.startswith(block)


def _pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    while (written := os.pwrite(fd, data, offset)) < len(data):
        data = data[written:]
        offset += written
