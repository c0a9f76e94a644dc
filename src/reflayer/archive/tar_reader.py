"""A tar's entries: ustar, PAX, GNU and the old V7 format (tar(5), POSIX pax)."""

from __future__ import annotations

from reflayer.archive import entry as types
from reflayer.archive.entry import NO_ATTRIBUTES, Entry
from reflayer.archive.pax import (
    common_nanoseconds,
    decimal,
    extended_attributes,
    parse_records,
    signed_decimal,
)
from reflayer.archive.sparse import old_gnu_map, pax_map, pax_map_in_data
from reflayer.archive.tar_header import (
    FIELDS,
    GNU_MAGIC,
    USTAR_MAGIC,
    common_number,
    has_checksum,
    number,
    text,
)
from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.archive.pax import Records
    from reflayer.archive.sparse import SparseMap
    from reflayer.archive.tar_stream import TarStream

    Fields = tuple[bytes, ...]

_LARGEST_HEADER = 1 << 20  # of an extended header or a long name, in bytes
_LONGEST_NAME = 1 << 16  # bytes; one name can be as many folders, half of that deep
_NO_ID = 2**32 - 1  # chown(2): leave as it is
_SECOND = 1_000_000_000
_V7_FILE = b"\0"
_SPARSE_FILE = b"S"
_CONTIGUOUS_FILE = b"7"
_FILES = frozenset({types.FILE, _V7_FILE, _SPARSE_FILE, _CONTIGUOUS_FILE})
_DEVICES = frozenset({types.CHAR, types.BLOCK_DEVICE})
_WITHOUT_DATA = frozenset(  # whatever size they state
    {types.HARD_LINK, types.SYMLINK, types.CHAR, types.BLOCK_DEVICE, types.DIRECTORY, types.FIFO}
)
_EXTENSIONS = frozenset({b"x", b"L", b"K"})
_GLOBAL = b"g"
_NO_DEVICE = (0, 0)
_NO_RECORDS: Records = {}


class _Extensions:
    """What headers before an entry say of it: of each type the last."""

    __slots__ = ("long_name", "long_target", "records")

    def __init__(self) -> None:
        self.records: Records = _NO_RECORDS
        self.long_name = b""
        self.long_target = b""

    def add(self, kind: bytes, data: bytes) -> None:
        """Take in the header of type ``kind``."""
        match kind:
            case b"x":
                self.records = parse_records(data)
            case b"L":
                self.long_name = text(data)
            case _:
                self.long_target = text(data)

    @property
    def wait_for_entry(self) -> bool:
        """Whether there is any, and an entry has to follow."""
        return bool(self.records or self.long_name or self.long_target)


def read_entries(stream: TarStream) -> Iterator[Entry]:
    """Each entry in turn, with ``stream`` at its data.

    Raises:
        ArchiveError: the archive is malformed; its ``entry`` is the name as far as it is known.
    """
    extensions = _Extensions()
    name = b""
    try:
        while stream.next_header():
            fields: Fields = FIELDS.unpack_from(stream.view, stream.position)
            kind = fields[7]
            if not has_checksum(stream.view, stream.position, fields[6]):  # its name may be no name
                which = "the header after it" if name else "the first header"
                reason = f"{which} has a wrong checksum: the archive is damaged, or no tar"
                raise ArchiveError(reason)
            name = fields[0].partition(b"\0")[0]
            if kind in _EXTENSIONS:
                extensions.add(kind, _small_data(fields, stream))
                continue
            if kind == _GLOBAL:  # of no meaning to Docker, containerd, Podman and umoci
                stream.enter_data(_size(fields))
                continue
            entry = _entry(fields, extensions, stream)
            if extensions.wait_for_entry:
                extensions = _Extensions()
            name = entry.name
            if len(name) > _LONGEST_NAME and not stream.is_own:
                raise ArchiveError(f"its name has {len(name)} bytes: too many", name[:100])
            yield entry
        if extensions.wait_for_entry:
            raise ArchiveError("the archive ends before the entry that this header belongs to")
    except ArchiveError as error:
        if error.entry is None and name:
            raise ArchiveError(error.reason, name) from error
        raise


def _small_data(fields: Fields, stream: TarStream) -> bytes:
    """All data of a header that is about another."""
    size = _size(fields)
    if size > _LARGEST_HEADER and not stream.is_own:
        raise ArchiveError(f"its extended header claims {size} bytes: too many")
    stream.enter_data(size)
    return stream.all_data()


def _size(fields: Fields) -> int:
    size = number(fields[4], "size")
    if size < 0:
        raise ArchiveError(f"its size ({size}) is out of range")
    return size


def _entry(fields: Fields, extensions: _Extensions, stream: TarStream) -> Entry:
    """The entry whose header is at hand; ``stream`` goes to its data."""
    (name, mode, uid_field, gid_field, size_field, mtime_field, _, kind, target, *_) = fields
    name = name.partition(b"\0")[0]
    target = target.partition(b"\0")[0]
    size = number(size_field, "size")
    uid = common_number(uid_field, "uid")
    gid = common_number(gid_field, "gid")
    atime = mtime = common_number(mtime_field, "mtime") * _SECOND
    if fields[13][0]:
        prefix, gnu_atime = _tail(fields, stream)
        if prefix:
            name = prefix + b"/" + name
        atime = mtime if gnu_atime is None else gnu_atime
    attributes = NO_ATTRIBUTES
    records = extensions.records
    if records:
        get = records.get
        name = get(b"GNU.sparse.name") or get(b"path") or name
        target = get(b"linkpath") or target
        if value := get(b"size"):
            size = decimal(value, "size")
        if value := get(b"uid"):
            uid = signed_decimal(value, "uid")
        if value := get(b"gid"):
            gid = signed_decimal(value, "gid")
        if value := get(b"mtime"):
            atime = mtime = common_nanoseconds(value, "mtime")
        if value := get(b"atime"):
            atime = common_nanoseconds(value, "atime")
        attributes = extended_attributes(records)
    if extensions.wait_for_entry:
        name = extensions.long_name or name
        target = extensions.long_target or target
    _check_names(name, target)
    if size < 0 or not (0 <= uid < _NO_ID and 0 <= gid < _NO_ID):
        if size < 0 or not -_NO_ID // 2 <= min(uid, gid) <= max(uid, gid) <= _NO_ID:
            raise ArchiveError(f"its size ({size}) or owner ({uid}:{gid}) is out of range", name)
        # Of 32 bits, as chown(2) takes them; -1 is for it to leave the owner as it is.
        uid, gid = ((id + 1) % (_NO_ID + 1) - 1 for id in (uid, gid))
    made, device, sparse = kind, _NO_DEVICE, None
    if kind in _FILES:
        made = types.FILE
        if kind == _V7_FILE and name.endswith(b"/"):
            made = types.DIRECTORY
        if kind == _SPARSE_FILE or records:
            try:
                sparse = _enter_sparse(kind, records, size, stream)
            except ArchiveError as error:
                raise ArchiveError(error.reason, name) from error
            size = stream.left
            if sparse is not None and sparse.stored != size:
                reason = f"its sparse map has {sparse.stored} bytes, the archive {size}"
                raise ArchiveError(reason, name)
        else:
            stream.enter_data(size)
    elif kind in _WITHOUT_DATA:
        size = 0
        stream.enter_data(0)
        if kind in _DEVICES:
            device = number(fields[11], "major number"), number(fields[12], "minor number")
    else:
        raise ArchiveError(f"it is of an unknown type, {kind!r}", name)
    permissions = common_number(mode, "mode") & 0o7777
    return Entry(
        name, made, size, permissions, uid, gid, atime, mtime, target, device, attributes, sparse
    )  # fmt: skip


def _check_names(name: bytes, target: bytes) -> None:
    if b"\0" in name or b"\0" in target:
        raise ArchiveError("its name, or that it links to, has a NUL in it", name)


def _tail(fields: Fields, stream: TarStream) -> tuple[bytes, int | None]:
    """The prefix of the name and the access time, which formats keep in the same place."""
    magic, tail = fields[9], fields[13]
    if magic == USTAR_MAGIC:
        if bytes(stream.block()[-4:]) == b"tar\0":  # star: a shorter prefix, then times
            return text(tail[:131]), None
        return text(tail), None
    if magic == GNU_MAGIC and fields[7] != _SPARSE_FILE and tail[:11].isdigit():
        return b"", number(tail[:12], "atime") * _SECOND
    return b"", None


def _enter_sparse(kind: bytes, records: Records, size: int, stream: TarStream) -> SparseMap | None:
    """Go to the data of a file that may be sparse; return its map if it is."""
    if kind == _SPARSE_FILE:
        header = bytes(stream.block())
        stream.enter_data(size)
        return old_gnu_map(header, stream.header_block)
    stream.enter_data(size)
    real_size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
    if real_size is None:
        return None
    real = decimal(real_size, "real size")
    if records.get(b"GNU.sparse.major") == b"1":
        return pax_map_in_data(stream.data_block, real, is_own=stream.is_own)
    return pax_map(records.get(b"GNU.sparse.map", b""), real)
