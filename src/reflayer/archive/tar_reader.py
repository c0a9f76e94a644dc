"""A tar's entries: ustar, PAX, GNU and the old V7 format (tar(5), POSIX pax)."""

from __future__ import annotations

import struct

from reflayer.archive import tar_header as types
from reflayer.archive.tar_header import (
    BLOCK,
    FIELDS,
    GNU_MAGIC,
    NO_ATTRIBUTES,
    NO_DEVICE,
    SECOND,
    USTAR_MAGIC,
    ZERO_BLOCK,
    Entry,
    SparseMap,
    common_number,
    decimal,
    extended_attributes,
    has_checksum,
    nanoseconds,
    number,
    parse_records,
    signed_decimal,
    sparse_map,
    text,
)
from reflayer.errors import ArchiveError
from reflayer.linux.names import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.archive.tar_header import Records

    Fields = tuple[bytes, ...]
    UpToTarget = tuple[bytes, bytes, int, int, int, int, int, int, bytes]
    Ordinary = Callable[[memoryview, int], tuple[int, UpToTarget, dict[str, bytes] | None] | None]

_ordinary: Ordinary = getattr(native, "tar_entry", lambda *_: None)

_LARGEST_HEADER = 1 << 20  # of an extended header or a long name, in bytes
_LONGEST_NAME = 1 << 16  # bytes; one name can be as many folders, half of that deep
_NO_ID = 2**32 - 1  # chown(2): leave as it is
_V7_FILE = b"\0"
_SPARSE_FILE = b"S"
_CONTIGUOUS_FILE = b"7"
_FILES = frozenset({types.FILE, _V7_FILE, _SPARSE_FILE, _CONTIGUOUS_FILE})
_DEVICES = frozenset({types.CHAR, types.BLOCK_DEVICE})
_WITHOUT_DATA = {types.HARD_LINK, *types.MODES} - {types.FILE}  # whatever size they state
_NOTHING_MORE: tuple[Records, bytes, bytes] = ({}, b"", b"")

# Where an old GNU header, and each block that extends it, keep the map of a sparse file.
_SPAN = struct.Struct("12s12s")
_IN_HEADER = slice(386, 482)
_HEADER_IS_EXTENDED = 482
_REAL_SIZE = slice(483, 495)
_IN_EXTENSION = slice(0, 504)
_EXTENSION_IS_EXTENDED = 504


class TarStream:
    """A place in a tar: at a header block, or in the data after one."""

    __slots__ = ("_chunks", "_end", "_padding", "is_own", "left", "position", "view")

    def __init__(self, chunks: Iterator[memoryview], *, is_own: bool = False) -> None:
        """Start at the first header of ``chunks``, each of whole blocks but for the last."""
        self.view = memoryview(b"")  # the chunk at hand
        self.position = 0  # in ``view``
        self.left = 0  # bytes of data from here to the padding before the next header
        self.is_own = is_own  # made by this process: names, headers and maps may have any size
        self._chunks = chunks
        self._end = 0
        self._padding = 0

    def next_header(self) -> bool:
        """Go past what is left of the data to the next header; False when the archive ends.

        An archive may end without the blocks of zeros that should end it: GNU tar, Docker and umoci
        take it too. It may even lack what fills the last block of the last file's data, as that of
        ``umoci insert`` does, and as Go's reader takes it.
        """
        if self.left or self._padding:
            self._skip_data()
        if self.position == self._end and not self._next_chunk():
            return False
        if self._end - self.position < BLOCK:
            raise ArchiveError("the archive ends in the middle of a header")
        if self.view[self.position] == 0 and self.block() == ZERO_BLOCK:
            self._check_end()
            return False
        return True

    def enter_data(self, size: int) -> None:
        """Go past the header at hand, which ``size`` bytes of data follow."""
        self.position += BLOCK
        self.left = size
        self._padding = -size % BLOCK

    def data(self, most: int) -> memoryview:
        """The next of the data: at least a byte where any is left, ``most`` bytes at most.

        It is gone with the next call.
        """
        start = self.position
        if start == self._end and self.left:
            self._require_chunk()
            start = 0
        piece = self.view[start : start + min(most, self.left)]
        self.position = start + len(piece)
        self.left -= len(piece)
        return piece

    def all_data(self) -> bytes:
        data = bytes(self.data(self.left))
        while self.left:
            data += self.data(self.left)
        return data

    def block(self) -> memoryview:
        return self.view[self.position : self.position + BLOCK]

    def header_block(self) -> bytes:
        """The block at hand as a part of the headers that is not counted as data; go past it."""
        if self.position == self._end:
            self._require_chunk()
        block = bytes(self.block())
        if len(block) < BLOCK:
            raise ArchiveError("the archive ends in the middle of a header")
        self.position += BLOCK
        return block

    def data_block(self) -> bytes:
        """The block at hand as a part of the data; go past it."""
        if self.left < BLOCK:
            raise ArchiveError("its data ends too early")
        block = self.header_block()
        self.left -= BLOCK
        return block

    def _skip_data(self) -> None:
        while self.position + self.left > self._end:
            self.left -= self._end - self.position
            self._require_chunk()
        # Chunks are of whole blocks, so padding is in the chunk that the data ends in; only the
        # last one may be cut short.
        self.position = min(self.position + self.left + self._padding, self._end)
        self.left = self._padding = 0

    def _check_end(self) -> None:
        """One block of zeros is at hand; another has to follow, or nothing, as in Go's reader."""
        self.position += BLOCK
        if (self.position < self._end or self._next_chunk()) and self.block() != ZERO_BLOCK:
            raise ArchiveError("the archive goes on after a single block of zeros")

    def _next_chunk(self) -> bool:
        self.view = next(self._chunks, memoryview(b""))
        self.position = 0
        self._end = len(self.view)
        return self._end > 0

    def _require_chunk(self) -> None:
        if not self._next_chunk():
            raise ArchiveError("the archive ends in the middle of an entry")


def read_entries(stream: TarStream) -> Iterator[Entry]:
    """Each entry in turn, with ``stream`` at its data.

    Raises:
        ArchiveError: the archive is malformed; its ``entry`` is the name as far as it is known.
    """
    records, long_name, long_target = _NOTHING_MORE
    name = b""
    try:
        while stream.next_header():
            is_first = not (records or long_name or long_target)
            if is_first and (found := _ordinary(stream.view, stream.position)) is not None:
                stream.position, facts, attributes = found
                entry = Entry(*facts, attributes=attributes or NO_ATTRIBUTES)
                stream.enter_data(entry.size)
                name = entry.name
                yield entry
                continue
            fields: Fields = FIELDS.unpack_from(stream.view, stream.position)
            kind = fields[7]
            if not has_checksum(stream.view, stream.position, fields[6]):  # its name may be no name
                which = "the header after it" if name else "the first header"
                reason = f"{which} has a wrong checksum: the archive is damaged, or no tar"
                raise ArchiveError(reason)
            name = fields[0].partition(b"\0")[0]
            match kind:  # of headers before an entry the last of each type counts
                case b"x":
                    records = parse_records(_small_data(fields, stream))
                    continue
                case b"L":
                    long_name = text(_small_data(fields, stream))
                    continue
                case b"K":
                    long_target = text(_small_data(fields, stream))
                    continue
                case b"g":  # of no meaning to Docker, containerd, Podman and umoci
                    stream.enter_data(_size(fields))
                    continue
            entry = _entry(fields, records, long_name, long_target, stream)
            records, long_name, long_target = _NOTHING_MORE
            name = entry.name
            if len(name) > _LONGEST_NAME and not stream.is_own:
                raise ArchiveError(f"its name has {len(name)} bytes: too many", name[:100])
            yield entry
        if records or long_name or long_target:
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


def _entry(
    fields: Fields, records: Records, long_name: bytes, long_target: bytes, stream: TarStream
) -> Entry:
    """The entry whose header is at hand; ``stream`` goes to its data."""
    (name, mode, uid_field, gid_field, size_field, mtime_field, _, kind, target, *_) = fields
    name = name.partition(b"\0")[0]
    target = target.partition(b"\0")[0]
    size = number(size_field, "size")
    uid = common_number(uid_field, "uid")
    gid = common_number(gid_field, "gid")
    atime = mtime = common_number(mtime_field, "mtime") * SECOND
    if fields[13][0]:
        prefix, gnu_atime = _tail(fields, stream)
        if prefix:
            name = prefix + b"/" + name
        atime = mtime if gnu_atime is None else gnu_atime
    attributes = NO_ATTRIBUTES
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
            atime = mtime = nanoseconds(value, "mtime")
        if value := get(b"atime"):
            atime = nanoseconds(value, "atime")
        attributes = extended_attributes(records)
    name = long_name or name
    target = long_target or target
    if b"\0" in name or b"\0" in target:
        raise ArchiveError("its name, or that it links to, has a NUL in it", name)
    if size < 0 or not (0 <= uid < _NO_ID and 0 <= gid < _NO_ID):
        if size < 0 or not -_NO_ID // 2 <= min(uid, gid) <= max(uid, gid) <= _NO_ID:
            raise ArchiveError(f"its size ({size}) or owner ({uid}:{gid}) is out of range", name)
        # Of 32 bits, as chown(2) takes them; -1 is for it to leave the owner as it is.
        uid, gid = ((id + 1) % (_NO_ID + 1) - 1 for id in (uid, gid))
    made, device, sparse = kind, NO_DEVICE, None
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


def _tail(fields: Fields, stream: TarStream) -> tuple[bytes, int | None]:
    """The prefix of the name and the access time, which formats keep in the same place."""
    magic, tail = fields[9], fields[13]
    if magic == USTAR_MAGIC:
        if bytes(stream.block()[-4:]) == b"tar\0":  # star: a shorter prefix, then times
            return text(tail[:131]), None
        return text(tail), None
    if magic == GNU_MAGIC and fields[7] != _SPARSE_FILE and tail[:11].isdigit():
        return b"", number(tail[:12], "atime") * SECOND
    return b"", None


def _enter_sparse(kind: bytes, records: Records, size: int, stream: TarStream) -> SparseMap | None:
    """Go to the data of a file that may be sparse; return its map if it is."""
    if kind != _SPARSE_FILE:
        stream.enter_data(size)
        return sparse_map(records, stream.data_block, is_own=stream.is_own)
    header = bytes(stream.block())
    stream.enter_data(size)
    real_size = number(header[_REAL_SIZE], "real size")
    return SparseMap(_old_gnu_spans(header, stream.header_block), real_size)


def _old_gnu_spans(header: bytes, next_block: Callable[[], bytes]) -> Iterator[tuple[int, int]]:
    """Offset and length of each span, from the header and the blocks after it."""
    fields, is_extended = header[_IN_HEADER], header[_HEADER_IS_EXTENDED]
    while True:
        for offset, length in _SPAN.iter_unpack(fields):
            if not offset[0] and not length[0]:
                break
            yield number(offset, "sparse map"), number(length, "sparse map")
        if not is_extended:
            return
        block = next_block()
        fields, is_extended = block[_IN_EXTENSION], block[_EXTENSION_IS_EXTENDED]
