"""A tree, or what changed in it, as a tar: an OCI layer (image-spec, layer.md) or all of it."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.archive import tar_header as types
from reflayer.archive.tar_header import END, Entry, format_sparse, headers, padding
from reflayer.archive.tree_diff import DELETED, RELINKED, TreeDiff
from reflayer.archive.whiteouts import OPAQUE, WHITEOUT_PREFIX
from reflayer.errors import ArchiveError, OperationError
from reflayer.linux.user_namespace import may_all
from reflayer.walk.facts import (
    FailedError,
    SizeChangedError,
    data_extents,
    list_attributes,
    read_attributes,
    read_attributes_at,
)
from reflayer.walk.folders import OPEN_FILE, open_beneath, open_noatime
from reflayer.walk.overlay import tree_attributes
from reflayer.walk.recorded import (
    OWNER,
    STATUS,
    is_record,
    key_of,
    names_in,
    names_of,
    own_attributes,
    owner_of,
    recorded_mode,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from reflayer.archive.compare import FolderPair
    from reflayer.archive.tree_diff import Difference
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.id_map import Conversion, IdMap
    from reflayer.walk.stack import AnyStack

_CHUNK = 1 << 18  # bytes that headers are gathered to, and that are read of a file at once
_TYPES = {mode: kind for kind, mode in types.MODES.items()}


def pack_layer(
    root: AnyPath,
    parent: AnyStack | None = None,
    *,
    cloned: float | None = None,
    id_map: IdMap | None = None,
) -> Packing:
    """The OCI layer that makes ``root`` when it is applied to ``parent``, uncompressed.

    Args:
        root: the changed tree.
        parent: the tree that it was cloned from, unchanged since, or the stack of layers, topmost
            first; None for an empty one.
        cloned: when the clone was complete, as for ``changes``.
        id_map: the ids in the layer are those of the container that ``root`` is of.
    """
    ids = None if id_map is None else id_map.for_container
    return Packing(TreeDiff(root, parent, cloned), is_layer=True, ids=ids)


def pack_difference(upper: AnyPath, *, id_map: IdMap | None = None) -> Packing:
    """The OCI layer that the difference ``upper`` was made of, uncompressed.

    Folders that had no entry in it have none. ``id_map`` is as for ``pack_layer``.
    """
    from reflayer.archive.upper_diff import UpperDiff

    ids = None if id_map is None else id_map.for_container
    return Packing(UpperDiff(upper), is_layer=True, ids=ids)


def pack_tree(root: AnyPath, *, id_map: IdMap | None = None) -> Packing:
    """A plain tar of all of ``root``, in which a name may begin with ``.wh.``, too.

    ``id_map`` is as for ``pack_layer``.
    """
    ids = None if id_map is None else id_map.for_container
    return Packing(TreeDiff(root), is_layer=False, ids=ids)


class Packing:
    """The bytes of a tar, made while they are iterated over, once.

    What a user who may not make everything has recorded beside (``walk.recorded``) is written as
    what it is; to root of the machine those are attributes as others are.

    Times are in nanoseconds, names of one inode become hard links. Holes stay holes, but in a layer
    they are zeros, as every builder has it. Access times are left out but for a copy: the same tree
    gives the same bytes, however often it is read.

    Attributes:
        entries: how many entries there are so far, whiteouts included.
        size: bytes so far.
        skipped: what a tar cannot hold, by kind: ``socket``, and ``mount`` for what is mounted; of
            a copy also each ``xattr`` that we may not read.
    """

    def __init__(
        self,
        diff: TreeDiff,
        *,
        is_layer: bool,
        is_copy: bool = False,
        ids: Conversion | None = None,
    ) -> None:
        """A copy has access times, too, and the attributes that are the system's.

        ``ids`` makes the owners in it of those in the tree.
        """
        self.entries = 0
        self.size = 0
        self.skipped: dict[str, int] = {}
        self._diff = diff
        self._is_layer = is_layer
        self._is_copy = is_copy
        self._unread = self._skip if is_copy else None
        self._ids = ids
        self._has_records = not is_copy and not may_all()
        self._has_owners = os.geteuid() == 0

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __iter__(self) -> Generator[bytes, None, None]:
        """The next bytes.

        Raises:
            ArchiveError: a name begins with ``.wh.``, which in a layer means something else, or an
                id of the host has none in the container.
            OperationError: something cannot be read, or changed meanwhile.
        """
        gathered: list[bytes] = []
        size = 0  # of what is gathered
        for piece in self._pieces():
            size += len(piece)
            gathered.append(piece)
            if size >= _CHUNK:
                self.size += size
                yield b"".join(gathered)
                gathered.clear()
                size = 0
        self.size += size + len(END)
        yield b"".join([*gathered, END])

    def _pieces(self) -> Iterator[bytes]:
        for difference in self._diff:
            folder, name = difference.folder, difference.name
            try:
                yield from self._pack(difference)
            except ArchiveError as error:
                if error.entry is not None:
                    raise
                raise ArchiveError(error.reason, folder.path(name) or b".") from error
            except SizeChangedError as error:
                path = self._diff.path(folder, name)
                raise OperationError(path, "pack", "its size changed meanwhile") from error
            except (FailedError, OSError) as error:
                raise self._diff.failure(error, folder, name, "pack") from error

    def _pack(self, difference: Difference) -> Iterator[bytes]:
        folder, name, status = difference.folder, difference.name, difference.status
        if difference.kind == DELETED:
            return  # its folder told
        self._check_name(folder, name)
        if not name:
            if not folder.is_packed:
                folder.is_packed = True
                yield from self._pack_folder(folder)
        elif difference.is_mount:
            self._skip("mount")  # something empty stands in its place, as in a copy
            is_folder = stat.S_ISDIR(status.st_mode)
            path = folder.path(name) + (b"/" if is_folder else b"")
            yield self._entry(path, types.DIRECTORY if is_folder else types.FILE, status)
        elif stat.S_ISSOCK(status.st_mode):
            self._skip("socket")
            # What a difference's hides is known to the stack below alone.
            may_hide = difference.replaces or not self._diff.is_whole
            if may_hide and difference.kind != RELINKED:
                yield self._whiteout(folder, WHITEOUT_PREFIX + name)
        elif difference.target:
            attributes = types.NO_ATTRIBUTES
            if self._has_records:
                attributes = read_attributes_at(folder.fd, name)
                attributes |= self._owner_in(folder, name, status)
            path = folder.path(name)
            yield self._entry(
                path, types.HARD_LINK, status, target=difference.target, attributes=attributes
            )
        elif stat.S_ISREG(status.st_mode):
            yield from self._pack_file(folder, name)
        else:
            target = os.readlink(name, dir_fd=folder.fd) if stat.S_ISLNK(status.st_mode) else b""
            attributes = self._in_tree(read_attributes_at(folder.fd, name, self._unread))
            yield self._entry(
                folder.path(name),
                _TYPES[stat.S_IFMT(status.st_mode)],
                status,
                target=target,
                attributes=attributes | self._owner_in(folder, name, status),
            )

    def _attributes(self, fd: int) -> dict[str, bytes]:
        return self._in_tree(read_attributes(fd, list_attributes(fd), self._unread))

    def _in_tree(self, attributes: dict[str, bytes]) -> dict[str, bytes]:
        return attributes if self._diff.is_whole else tree_attributes(attributes)

    def _owner_in(
        self, folder: FolderPair, name: bytes, status: os.stat_result
    ) -> dict[str, bytes]:
        """The owner that the folder tells of what can have no such attribute itself."""
        if not self._has_records or stat.S_ISREG(status.st_mode):
            return {}
        if folder.owners is None:
            folder.owners = names_of(names_in(folder.fd) or b"")
        owner = folder.owners.get(key_of(name, status.st_mtime_ns)) if folder.owners else None
        return {} if owner is None else {OWNER: owner}

    def _folder_attributes(self, folder: FolderPair) -> dict[str, bytes]:
        if folder.fd >= 0:
            return self._attributes(folder.fd)
        root = folder
        while root.parent is not None:
            root = root.parent
        fd = open_beneath(root.fd, folder.path())  # it was shut on the way down
        try:
            return self._attributes(fd)
        finally:
            os.close(fd)

    def _check_name(self, folder: FolderPair, name: bytes) -> None:
        if self._is_layer and (name or folder.name).startswith(WHITEOUT_PREFIX):
            reason = "a name that begins with .wh. cannot be in a layer: rename it"
            raise ArchiveError(reason, folder.path(name))

    def _pack_folder(self, folder: FolderPair) -> Iterator[bytes]:
        attributes = self._folder_attributes(folder)
        path = folder.path()
        if not folder.is_implied:
            name = path + b"/" if path else b"./"
            yield self._entry(name, types.DIRECTORY, folder.status, attributes=attributes)
        if folder.is_emptied:
            yield self._whiteout(folder, OPAQUE)
            return
        for name in sorted(folder.gone):
            self._check_name(folder, name)
            yield self._whiteout(folder, WHITEOUT_PREFIX + name)

    def _pack_file(self, folder: FolderPair, name: bytes) -> Iterator[bytes]:
        fd = open_noatime(name, folder.fd, OPEN_FILE)
        try:
            # Docker unpacks a layer with a sparse entry, but never gives it out again: it makes
            # its tar anew from its files (tar-split), and the digest of that is another.
            path = folder.path(name)
            file = PackedFile(fd, path, sparse=not self._is_layer)
            yield self._entry(
                path,
                types.FILE,
                file.status,
                size=file.size,
                attributes=self._attributes(fd),
                records=file.records,
            )
            yield from file.data()
        finally:
            os.close(fd)

    def _entry(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        size: int = 0,
        target: bytes = b"",
        attributes: Mapping[str, bytes] = types.NO_ATTRIBUTES,
        records: Mapping[bytes, bytes] | None = None,
    ) -> bytes:
        uid, gid, mtime = status.st_uid, status.st_gid, status.st_mtime_ns
        if self._ids is not None:
            attributes = self._ids.attributes(attributes)
            uid, gid = self._ids.owner(uid, gid)
        device = types.NO_DEVICE
        if kind in (types.CHAR, types.BLOCK_DEVICE):
            device = os.major(status.st_rdev), os.minor(status.st_rdev)
        atime = status.st_atime_ns if self._is_copy else mtime
        mode = stat.S_IMODE(status.st_mode)
        if self._has_records and any(map(is_record, attributes)):
            if OWNER in attributes:
                found = owner_of(attributes[OWNER], uid, gid)
                # In a namespace what was given to somebody since has him, and is not root's.
                uid, gid = (uid or found[0], gid or found[1]) if self._has_owners else found
            if STATUS in attributes:
                full, device = recorded_mode(attributes[STATUS], status)
                mode = stat.S_IMODE(full)
                kind = kind if kind == types.HARD_LINK else _TYPES[stat.S_IFMT(full)]
            attributes = own_attributes(attributes)
        if kind == types.HARD_LINK:
            attributes, device = types.NO_ATTRIBUTES, types.NO_DEVICE
        self.entries += 1
        entry = Entry(path, kind, size, mode, uid, gid, atime, mtime, target, device, attributes)
        return headers(entry, records)

    def _whiteout(self, folder: FolderPair, name: bytes) -> bytes:
        self.entries += 1
        return headers(Entry(folder.path(name), types.FILE))

    def _skip(self, kind: str) -> None:
        self.skipped[kind] = self.skipped.get(kind, 0) + 1


class PackedFile:
    """One open file on its way into a tar; its ``size`` is that of its data there."""

    def __init__(self, fd: int, path: bytes, *, sparse: bool) -> None:
        """Look at ``fd``, which is to be called ``path``; without ``sparse`` holes are zeros."""
        self.status = status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "it changed meanwhile")
        self._fd = fd
        self._size = status.st_size
        if not self._size and os.pread(fd, 1, 0):  # proc(5): what there is shows when it is read
            from shutil import copyfileobj
            from tempfile import TemporaryFile

            self._spool = TemporaryFile()  # noqa: SIM115  # closed with this object
            with open(fd, "rb", closefd=False) as file:
                copyfileobj(file, self._spool)
            self._spool.flush()
            self._fd, self._size = self._spool.fileno(), self._spool.tell()
        self._table = b""
        self._extents = [(0, self._size)] if self._size else []
        self.records: dict[bytes, bytes] = {}
        if sparse and status.st_size:
            extents = list(data_extents(fd, status.st_size))
            if extents != self._extents:
                self._extents = extents
                self._table, self.records = format_sparse(extents, status.st_size, path)
        self.size = len(self._table) + sum(end - start for start, end in self._extents)

    def data(self) -> Iterator[bytes]:
        """The data and what follows it up to the next header."""
        if self._table:
            yield self._table
        for start, end in self._extents:
            while start < end:
                block = os.pread(self._fd, min(end - start, _CHUNK), start)
                if not block:
                    raise SizeChangedError
                start += len(block)
                yield block
        if os.fstat(self._fd).st_size != self._size:
            raise SizeChangedError
        yield padding(self.size)
