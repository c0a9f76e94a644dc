"""A layer's blob, checked on the way, becomes files in a folder.

Up to four threads work on one layer, each behind the one before: read and decompress, hash
(``compression``), parse headers and make what is not ordinary (``Layer``), make ordinary files by
the part in C (``files``). A layer of one chunk, 1 MiB, never waits for a thread to start.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import cache, partial

from reflayer.archive import tar_header as types
from reflayer.archive.compression import Blob, PlainReader, ReadAhead
from reflayer.archive.files import Files, write_data
from reflayer.archive.folders import Folders, failure, link_at
from reflayer.archive.tar_header import clean_path
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.archive.whiteouts import (
    AUFS_INODES,
    WHITEOUT_PREFIX,
    apply_whiteout,
    is_aufs_metadata,
)
from reflayer.errors import ArchiveError, ReflayerError, failing, printable
from reflayer.record import record
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import NEW_FILE
from reflayer.walk.metadata import OWNERSHIPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from hashlib import _Hash as Hash
    from typing import BinaryIO, TypeVar

    from reflayer.archive.layer_metadata import LayerFolder
    from reflayer.archive.tar_header import Entry
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.id_map import IdMap
    from reflayer.walk.stack import Stack

    T = TypeVar("T")

_ALGORITHMS = {"sha256": 64, "sha512": 128}  # hexadecimal digits: OCI image-spec, descriptor.md
_MOST_MAJOR, _MOST_MINOR = (1 << 12) - 1, (1 << 20) - 1  # linux/kdev_t.h
_OPERATIONS = {
    types.FILE: "write the file",
    types.HARD_LINK: "link",
    types.SYMLINK: "symlink",
    types.DIRECTORY: "mkdir",
}


@record
class AppliedLayer:
    """One applied layer.

    Attributes:
        digest: of the blob as it was read, ``sha256:...`` unless another was asked for.
        diff_id: digest of the plain tar.
        size: bytes of the blob.
        plain_size: bytes of the plain tar.
        entries: how many entries it has, whiteouts included.
        skipped: what was refused and is left out or recorded, by kind: ``owner``, ``device``,
            ``xattr``; and each ``xattr`` that belongs to another host or file system.
    """

    digest: str
    diff_id: str
    size: int
    plain_size: int
    entries: int
    skipped: Mapping[str, int]


def apply_layer(
    root: AnyPath,
    blob: BinaryIO,
    *,
    digest: str | None = None,
    size: int | None = None,
    diff_id: str | None = None,
    checked: bool = False,
    ownership: str = "keep",
    progress: Callable[[int], None] | None = None,
    below: Callable[[], Stack] | None = None,
) -> AppliedLayer:
    """Apply the layer ``blob`` in place to the folder ``root`` (OCI image-spec, layer.md).

    With ``below`` the root becomes a difference (``walk.overlay``): laid over that stack it shows
    what the layer makes of it. Nothing is forced to disk. After an error ``root`` is half changed,
    and of no use.

    Args:
        root: the folder that the lower layers are in, or an empty one; that for a difference.
        blob: a tar, plain or compressed by gzip, zstd, bzip2 or xz; it is read to its end.
        digest: what the blob's digest has to be.
        size: how many bytes the blob has to have.
        diff_id: what the digest of the plain tar has to be.
        checked: ``blob`` itself makes sure that it has ``digest``, so that nobody need do so twice:
            reading its end raises otherwise.
        ownership: ``keep``, or ``ignore`` to leave out and count owners, devices and attributes
            that the kernel refuses, as it does without root.
        progress: is called now and then with the number of the blob's bytes that were read.
        below: what the difference is laid over. It is asked once at most, when that has to be
            looked at, and may wait until it is there: for the folders of which the layer has no
            entry, at the latest the root, and for hard links to files of lower layers.

    Raises:
        ArchiveError: the archive is damaged, is not what it has to be, or asks for what cannot be.
        OperationError: the system could not do what the archive asks for; for want of space, say.
        ValueError: ``ownership`` is neither.
    """

    def attempt(is_guessing: bool = False) -> AppliedLayer:
        known = digest if checked else None
        whole = _new_hash(digest)
        plain = _new_hash(diff_id)
        compressed = Blob(blob, whole if known is None else None, size)
        reader = PlainReader(compressed)
        # The digest of a plain tar is its diff id, and need not be made twice.
        is_one = known is None and reader.compression == "none" and whole.name == plain.name
        ahead = ReadAhead(reader, None if is_one else plain)
        folders = _folders(root, ownership, None, below, is_guessing)
        entries, _, skipped = _apply(folders, compressed, ahead, progress)
        if size is not None and compressed.count != size:
            raise ArchiveError(f"the blob has {compressed.count} bytes but should have {size}")
        return AppliedLayer(
            digest=_checked(whole, digest, "blob's digest") if known is None else known,
            diff_id=_checked(whole if is_one else plain, diff_id, "diff id"),
            size=compressed.count,
            plain_size=ahead.count,
            entries=entries,
            skipped=skipped,
        )

    if below is None or not blob.seekable():
        return attempt()
    from reflayer.archive.guesses import WrongGuessError, start_over

    start, below = blob.tell(), cache(below)
    try:
        return attempt(is_guessing=True)
    except WrongGuessError:
        start_over(os.fsencode(root))
        blob.seek(start)
        return attempt()


def _new_hash(digest: str | None) -> Hash:
    if digest is None:
        return hashlib.sha256()
    algorithm, _, encoded = digest.partition(":")
    if len(encoded) != _ALGORITHMS.get(algorithm) or set(encoded) - set("0123456789abcdef"):
        raise ArchiveError(f"{digest!r} is not a sha256 or sha512 digest")
    return hashlib.new(algorithm)


def _checked(hashing: Hash, wanted: str | None, what: str) -> str:
    """The digest that ``hashing`` came to, which has to be ``wanted`` if that is given."""
    digest = f"{hashing.name}:{hashing.hexdigest()}"
    if wanted is not None and digest != wanted:
        raise ArchiveError(f"the {what} is {digest} but should be {wanted}")
    return digest


def apply_stream(
    root: AnyPath,
    stream: BinaryIO,
    *,
    ownership: str = "keep",
    id_map: IdMap | None = None,
    progress: Callable[[int], None] | None = None,
    below: Callable[[], Stack] | None = None,
) -> int:
    """Apply a layer of which no digest is wanted; return the sum of its files' sizes.

    The sum is what Docker tells of a layer: whole sizes of sparse files, nothing for further names.
    With an ``id_map`` the archive's ids are a container's, and those of the host are set. ``below``
    is that of ``apply_layer``.

    Raises:
        ArchiveError, OperationError, ValueError: as ``apply_layer`` does.
    """
    blob = Blob(stream, None, None)
    reading = ReadAhead(PlainReader(blob), None)
    owner = None if id_map is None else id_map.root
    folders = _folders(root, ownership, owner, below)
    return _apply(folders, blob, reading, progress, id_map)[1]


def _folders(
    root: AnyPath,
    ownership: str,
    owner: tuple[int, int] | None,
    below: Callable[[], Stack] | None,
    is_guessing: bool = False,
) -> Folders:
    if ownership not in OWNERSHIPS:
        raise ValueError(f"ownership is one of {', '.join(OWNERSHIPS)}, not {ownership!r}")
    path = os.fsencode(root)
    with failing(path, "open"):
        if below is None:
            return Folders(path, ownership, owner)
        if is_guessing:
            from reflayer.archive.guesses import GuessedFolders

            return GuessedFolders(path, ownership, owner, below)
        from reflayer.archive.difference import UnionFolders

        return UnionFolders(path, ownership, owner, below)


def _apply(
    folders: Folders,
    blob: Blob,
    reading: ReadAhead,
    progress: Callable[[int], None] | None,
    id_map: IdMap | None = None,
) -> tuple[int, int, Mapping[str, int]]:
    """Return the number of entries, the sum of their sizes and what was left out."""
    entries = size = 0
    with folders, reading as ahead:
        chunks = iter(ahead) if progress is None else _told(ahead, blob, progress)
        stream = TarStream(chunks)
        layer = Layer(folders, stream, id_map)
        ahead.release, ahead.settle = layer.files.release, layer.files.settle
        with layer.files:
            try:
                for entry in read_entries(stream):
                    layer.apply(entry)
                    entries += 1
                    size += entry.size if entry.sparse is None else entry.sparse.size
            except ReflayerError:
                layer.files.settle_earlier()
                raise
            layer.finish()
            for _ in chunks:
                pass  # what follows the end of the archive counts for the digests
    return entries, size, folders.metadata.skipped


def _told(ahead: ReadAhead, blob: Blob, progress: Callable[[int], None]) -> Iterator[memoryview]:
    """The chunks of ``ahead``, with ``progress`` called at each."""
    for chunk in ahead:
        progress(blob.count)
        yield chunk
    progress(blob.count)


class Layer:
    """Applies entries to a root; ``files`` makes ordinary files behind."""

    def __init__(self, folders: Folders, stream: TarStream, id_map: IdMap | None) -> None:
        """Entries are made in ``folders``; the data of the one at hand comes from ``stream``."""
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
        self._metadata.record(entry)
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
        self._folders.enter_root(entry)

    def _make_again(self, folder: LayerFolder, name: bytes, entry: Entry, data: memoryview) -> None:
        """Make a file that the part in C could not."""
        stream = TarStream(iter((data,)))
        stream.left = len(data)
        self._doing(entry, self._make_file, folder, name, entry, stream)

    def _make_file(self, folder: LayerFolder, name: bytes, entry: Entry, stream: TarStream) -> None:
        mode = self._metadata.creation_mode(entry)
        make = partial(os.open, name, NEW_FILE, mode, dir_fd=folder.fd)
        fd = self._replace(folder, name, make)
        try:
            if entry.size or entry.sparse:
                write_data(fd, stream, entry.sparse)
            self._metadata.finish_file(fd, folder, entry)
        finally:
            os.close(fd)
        self._folders.upper_paths.add(folder, name)

    def _make_special(self, folder: LayerFolder, name: bytes, entry: Entry) -> None:
        is_device = entry.type in (types.CHAR, types.BLOCK_DEVICE)
        if is_device and self._metadata.make_file_of(entry):
            self._metadata.record(entry)
            self._make_file(folder, name, entry, self._stream)
            return
        try:
            self._replace(folder, name, lambda: _make_at(folder.fd, name, entry))
        except PermissionError as error:
            if not is_device or not self._metadata.refused("device", error):
                raise
            if self._metadata.stand_in(entry):
                self._make_file(folder, name, entry, self._stream)
                return
            self._left_out.add(clean_path(entry.name))
            self._folders.hide_lower(folder, name)
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
        source = self._folders.source(target_above, target_name)
        if source is None:
            raise ArchiveError(f"it links to {printable(target)}, which is not there")
        src = os.dup(source.fd)  # that folder may be shut while the other is found
        try:
            folder = self._folders.at(above)
            self.files.other(folder, name)
            status = self._folders.status(src, target_name)
            if stat.S_ISDIR(status.st_mode):
                raise ArchiveError(f"it links to {printable(target)}, which is a folder")
            if not _is_inode(status, folder.fd, name):
                self._replace(folder, name, lambda: link_at(src, target_name, folder.fd, name))
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

    def _replace(self, folder: LayerFolder, name: bytes, make: Callable[[], T]) -> T:
        """Make ``name`` in ``folder``, in place of what may be there."""
        try:
            return make()
        except FileExistsError:
            self._folders.remove(folder, name)
            return make()


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


def _is_inode(status: os.stat_result, dst: int, name: bytes) -> bool:
    """Whether the name is of the inode already: it would be lost if it were replaced."""
    try:
        there = os.stat(name, dir_fd=dst, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, status)
