"""The headers of a tar's entries, read and written, and what is known of an entry by them.

tar(5); POSIX pax, "ustar Interchange Format" and "pax Extended Header". Extended attributes are GNU
tar's ``SCHILY.xattr``, read from libarchive's form, too. Where the data of a sparse file lies is in
one of GNU tar's formats 0.0 to 1.0 (its manual, "Storing Sparse Files"); 1.0 is written.

Ustar is written, with a PAX header before those that it cannot hold. It depends on the entry alone:
no names of users, no time of writing, records in the order of their keys.
"""

from __future__ import annotations

import os
import stat
import struct
from array import array
from functools import lru_cache
from zlib import adler32

from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Records = dict[bytes, bytes]
"""What a PAX header holds, by key."""

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
END = 2 * ZERO_BLOCK
"""What ends a tar."""
LARGEST = 2**63 - 1  # off_t and time_t
SECOND = 1_000_000_000  # nanoseconds

USTAR_MAGIC = b"ustar\x00"
GNU_MAGIC = b"ustar "

# name mode uid gid size mtime checksum type linkname magic version - - major minor prefix
FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s6s2s64x8s8s155s12x")

FILE = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHAR = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"

MODES = {
    FILE: stat.S_IFREG,
    SYMLINK: stat.S_IFLNK,
    CHAR: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
    DIRECTORY: stat.S_IFDIR,
    FIFO: stat.S_IFIFO,
}
"""The file type in ``st_mode`` of each but a hard link (inode(7))."""

NO_ATTRIBUTES: Mapping[str, bytes] = {}
NO_DEVICE = (0, 0)
_MOST_SPANS = 1 << 20  # 16 MiB of map

_CHECKSUM = slice(148, 156)
_LARGEST_ID = 0o7777777
_LARGEST_SIZE = 0o77777777777  # and the latest time, in seconds
_NAME, _PREFIX = 100, 155  # bytes
_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")
_SCHILY_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_SPARSE_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_SPARSE_MAP = b"GNU.sparse.map"
_LONGEST_LENGTH = 20  # digits


def is_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header with the right checksum, or the zeros that end a tar."""
    return block == ZERO_BLOCK or has_checksum(memoryview(block), 0, block[_CHECKSUM])


def has_checksum(view: memoryview, start: int, field: bytes) -> bool:
    """Whether the bytes of the block at ``start`` add up to what its ``field`` says.

    Signed or unsigned; the field itself counts as spaces.
    """
    try:
        wanted = octal(field)
    except ValueError:
        return False
    total = (
        byte_sum(view[start : start + 148])
        + byte_sum(view[start + 156 : start + 384])
        + byte_sum(view[start + 384 : start + 512])
        + 8 * 32
    )
    if total == wanted:
        return True
    high = sum(byte >> 7 for byte in view[start : start + 148])
    high += sum(byte >> 7 for byte in view[start + 156 : start + 512])
    return total - 256 * high == wanted


def byte_sum(data: bytes | memoryview) -> int:
    """The sum of at most 256 bytes: in C, where half of Adler-32 is one more, up to 65,520."""
    return (adler32(data) & 0xFFFF) - 1


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of data, up to the next header."""
    return bytes(-size % BLOCK)


def text(field: bytes) -> bytes:
    """A field up to its first NUL."""
    return field.partition(b"\0")[0]


def octal(field: bytes) -> int:
    """A field of octal digits among spaces, ended by NUL or space; 0 when blank; or ValueError."""
    digits = field.rstrip(b"\0")
    if not digits.isdigit():
        digits = digits.partition(b"\0")[0].strip(b" ")
    if digits.isdigit():
        return int(digits, 8)
    if digits:
        raise ValueError(digits)
    return 0


def number(field: bytes, what: str) -> int:
    """A field of octal digits, or GNU's base-256 where its first byte is 0x80 or more."""
    if field[0] < 0x80:
        try:
            return octal(field)
        except ValueError:
            raise ArchiveError(f"its {what} is not a number: {field!r}") from None
    bits = len(field) * 8 - 1
    value = int.from_bytes(field, "big") & ((1 << bits) - 1)
    if field[0] & 0x40:  # two's complement without the marking bit
        value -= 1 << bits
    if not -LARGEST <= value <= LARGEST:
        raise ArchiveError(f"its {what} is out of range: {value}")
    return value


# Modes, ids and times repeat: looked up sooner than read again.
common_number = lru_cache(maxsize=512)(number)


class Entry:
    """One entry."""

    __slots__ = (
        "atime", "attributes", "device", "gid", "mode", "mtime", "name", "size", "sparse", "target",
        "type", "uid",
    )  # fmt: skip

    def __init__(
        self,
        name: bytes,
        type: bytes,  # noqa: A002
        size: int = 0,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        atime: int = 0,
        mtime: int = 0,
        target: bytes = b"",
        device: tuple[int, int] = NO_DEVICE,
        attributes: Mapping[str, bytes] = NO_ATTRIBUTES,
        sparse: SparseMap | None = None,
    ) -> None:
        self.name = name  # no NUL in it; the root's may be empty, a folder's end with a slash
        self.type = type  # one of the types above
        self.size = size  # bytes of data in the archive
        self.mode = mode  # permission bits with setuid, setgid and sticky
        self.uid = uid  # -1: the one that it has
        self.gid = gid
        self.atime = atime  # nanoseconds since the epoch; ``mtime`` where there is none
        self.mtime = mtime
        self.target = target  # where a hard or symbolic link points
        self.device = device  # major and minor number
        self.attributes = attributes
        self.sparse = sparse  # where the data goes in a sparse file


class SparseMap:
    """The spans of a file that hold data, in order; all else of it are holes."""

    __slots__ = ("_lengths", "_offsets", "size", "stored")

    def __init__(
        self, spans: Iterator[tuple[int, int]], size: int, *, is_own: bool = False
    ) -> None:
        """Take (offset, length) of each span, at most 1,048,576 of them where it is not our own."""
        if size < 0:
            raise ArchiveError(f"its real size ({size}) is out of range")
        self.size = size  # of the file in bytes, holes included
        self.stored = 0  # bytes of data in all spans
        self._offsets = array("q")
        self._lengths = array("q")
        end = 0
        for offset, length in spans:
            if offset < end or length < 0 or offset + length > size:
                raise ArchiveError("its sparse map is out of order or exceeds the file")
            if len(self._offsets) == _MOST_SPANS and not is_own:
                raise ArchiveError(f"its sparse map has more than {_MOST_SPANS} spans")
            end = offset + length
            self.stored += length
            self._offsets.append(offset)
            self._lengths.append(length)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each span."""
        return zip(self._offsets, self._lengths, strict=True)


def clean_path(name: bytes) -> bytes:
    """``name`` as a path from the layer's root, which itself is empty.

    ``..`` goes up one name and stops at the root, as in the tools of Docker, containerd and umoci;
    no file is looked at.
    """
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name[:-1]
    if name and name[0] not in b"/." and b"//" not in name and b"/." not in name:
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def join_path(path: bytes, name: bytes) -> bytes:
    """The path of ``name`` in the folder ``path``, which is ``.`` for the root."""
    return name if path == b"." else path + b"/" + name


def parse_records(data: bytes) -> Records:
    """The records of one extended header; of those with the same key the last.

    GNU's sparse format 0.0 repeats two keys for each span: they come joined under the one key that
    format 0.1 uses.
    """
    records: Records = {}
    spans: list[bytes] = []
    position = 0
    end = len(data)
    while position < end:
        space = data.find(b" ", position, position + _LONGEST_LENGTH)
        length = data[position:space]
        if space < 0 or not length.isdigit():
            raise ArchiveError("its extended header has a record without a length")
        after = position + int(length)
        key, equals, value = data[space + 1 : after - 1].partition(b"=")
        if after > end or after < space + 3 or data[after - 1] != 0x0A or not equals or not key:
            raise ArchiveError("its extended header has a malformed record")
        if key in _SPARSE_PAIR:
            if key != _SPARSE_PAIR[len(spans) % 2]:
                raise ArchiveError("its sparse map is malformed")
            spans.append(value)
        else:
            records[key] = value
        position = after
    if spans:
        records[_SPARSE_MAP] = b",".join(spans)
    return records


def format_records(records: Mapping[bytes, bytes]) -> bytes:
    """The data of an extended header, in the order of the keys."""
    return b"".join(_format_record(key, records[key]) for key in sorted(records))


def _format_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(b"%d" % len(rest))
    length = len(rest) + len(b"%d" % length)  # its own digits may have become one more
    return b"%d" % length + rest


def decimal(value: bytes, what: str) -> int:
    """A whole number of zero or more."""
    if not value.isdigit() or len(value) > _LONGEST_LENGTH or int(value) > LARGEST:
        raise ArchiveError(f"its {what} is not a number in range: {value[:40]!r}")
    return int(value)


def signed_decimal(value: bytes, what: str) -> int:
    """A whole number, with a sign before it where it is less than zero."""
    is_negative = value.startswith(b"-")
    return -decimal(value[1:], what) if is_negative else decimal(value, what)


@lru_cache(maxsize=512)  # times repeat
def nanoseconds(value: bytes, what: str) -> int:
    """A time in decimal seconds as nanoseconds since the epoch; further digits are dropped."""
    seconds, _, fraction = value.removeprefix(b"-").partition(b".")
    if (
        not seconds.isdigit()
        or not (fraction or b"0").isdigit()
        or len(seconds) > _LONGEST_LENGTH
        or int(seconds) > LARGEST
    ):
        raise ArchiveError(f"its {what} is not a time in range: {value[:40]!r}")
    time = int(seconds) * SECOND + int(fraction[:9].ljust(9, b"0"))
    return -time if value.startswith(b"-") else time


def format_nanoseconds(time: int) -> bytes:
    """The decimal seconds of a time."""
    seconds, fraction = divmod(abs(time), SECOND)
    sign = b"-" if time < 0 else b""
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def extended_attributes(records: Records) -> dict[str, bytes]:
    """The extended attributes among ``records``, by name.

    GNU tar writes "=" and "%" in a name as %3D and %25; libarchive encodes name and value. ACLs as
    texts (SCHILY.acl) are not read, as by no tool for layers.
    """
    attributes: dict[str, bytes] = {}
    for key, value in records.items():
        if key.startswith(_SCHILY_XATTR):
            name = key[len(_SCHILY_XATTR) :]
            if b"%" in name:
                name = name.replace(b"%3D", b"=").replace(b"%25", b"%")
            attributes[os.fsdecode(name)] = value
        elif key.startswith(_LIBARCHIVE_XATTR):
            from urllib.parse import unquote_to_bytes  # rarely needed, slow to import

            name = unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :])
            attributes.setdefault(os.fsdecode(name), _unpadded_base64(value))
    if any(not name or "\0" in name for name in attributes):
        raise ArchiveError("it has an extended attribute without a proper name")
    return attributes


def _unpadded_base64(value: bytes) -> bytes:
    import binascii
    from base64 import b64decode

    digits = value.rstrip(b"=")
    try:
        return b64decode(digits + b"=" * (-len(digits) % 4))
    except binascii.Error as error:
        raise ArchiveError("it has an extended attribute that is not base64") from error


def attribute_records(attributes: Mapping[str, bytes]) -> Records:
    """The records of extended attributes, as GNU tar writes them: ``=`` would end the key."""
    return {
        _SCHILY_XATTR + os.fsencode(name).replace(b"%", b"%25").replace(b"=", b"%3D"): value
        for name, value in attributes.items()
    }


def sparse_map(
    records: Records, next_block: Callable[[], bytes], *, is_own: bool
) -> SparseMap | None:
    """Where the data of a file lies that has ``records``; None where it is not sparse.

    ``next_block`` reads the next block of its data, where format 1.0 has the map.
    """
    real_size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
    if real_size is None:
        return None
    size = decimal(real_size, "real size")
    if records.get(b"GNU.sparse.major") == b"1":
        numbers = _map_lines(next_block)
        count = next(numbers)
        spans = ((next(numbers), next(numbers)) for _ in range(count))
        return SparseMap(spans, size, is_own=is_own)
    value = records.get(_SPARSE_MAP, b"")
    items = value.split(b",") if value else []
    if len(items) % 2:
        raise ArchiveError("its sparse map is malformed")
    each = (decimal(item, "sparse map") for item in items)
    return SparseMap(zip(each, each, strict=True), size)


def _map_lines(next_block: Callable[[], bytes]) -> Iterator[int]:
    rest = b""
    while len(rest) < BLOCK:
        *whole, rest = (rest + next_block()).split(b"\n")
        for line in whole:
            yield decimal(line, "sparse map")
    raise ArchiveError("its sparse map is malformed")


def format_sparse(extents: list[tuple[int, int]], size: int, name: bytes) -> tuple[bytes, Records]:
    """The map, in whole blocks, and the records of a file with data only in ``extents``.

    Of each they have its start and its end.
    """
    if not extents or extents[-1][1] != size:
        extents = [*extents, (size, size)]  # GNU tar takes the end of the last one for the file's
    numbers = [len(extents)]
    for start, end in extents:
        numbers += [start, end - start]
    lines = b"".join(b"%d\n" % number for number in numbers)
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": name,
        b"GNU.sparse.realsize": b"%d" % size,
    }
    return lines + padding(len(lines)), records


def headers(entry: Entry, records: Mapping[bytes, bytes] | None = None) -> bytes:
    """All blocks that come before an entry's data; ``records`` are further ones of PAX."""
    name, target, uid, gid, size = entry.name, entry.target, entry.uid, entry.gid, entry.size
    pax = attribute_records(entry.attributes) if entry.attributes else {}
    if records:
        pax.update(records)
    prefix, short = _split(name)
    if prefix is None or _is_foreign(name):
        pax.setdefault(b"path", name)
    if len(target) > _NAME or _is_foreign(target):
        pax[b"linkpath"] = target
    if pax and not all(_is_text(pax.get(key, b"")) for key in _NAMES):
        pax[b"hdrcharset"] = b"BINARY"  # else libarchive refuses them
    if uid > _LARGEST_ID:
        pax[b"uid"] = b"%d" % uid
    if gid > _LARGEST_ID:
        pax[b"gid"] = b"%d" % gid
    if size > _LARGEST_SIZE:
        pax[b"size"] = b"%d" % size
    seconds, fraction = divmod(entry.mtime, SECOND)
    if fraction or not 0 <= seconds <= _LARGEST_SIZE:
        pax[b"mtime"] = format_nanoseconds(entry.mtime)
        seconds = min(max(seconds, 0), _LARGEST_SIZE)
    if entry.atime != entry.mtime:
        pax[b"atime"] = format_nanoseconds(entry.atime)
    block = FIELDS.pack(
        short,
        b"%07o" % entry.mode,
        b"%07o" % (uid if uid <= _LARGEST_ID else 0),
        b"%07o" % (gid if gid <= _LARGEST_ID else 0),
        b"%011o" % (size if size <= _LARGEST_SIZE else 0),
        b"%011o" % seconds,
        b" " * 8,  # where the checksum will be
        entry.type,
        target[:_NAME],
        USTAR_MAGIC,
        b"00",
        b"%07o" % entry.device[0],
        b"%07o" % entry.device[1],
        prefix or b"",
    )
    total = byte_sum(block[:256]) + byte_sum(block[256:])
    block = block[: _CHECKSUM.start] + b"%06o\0 " % total + block[_CHECKSUM.stop :]
    if not pax:
        return block
    data = format_records(pax)
    return _pax_header(len(data)) + data + padding(len(data)) + block


@lru_cache(maxsize=512)
def _pax_header(size: int) -> bytes:
    return headers(Entry(b"././@PaxHeader", b"x", size, 0o644))


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """Prefix and name as ustar has them; None and the beginning where they do not hold it."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.find(b"/", max(len(name) - _NAME - 1, 1), -1)
    if 0 < cut <= _PREFIX:
        return name[:cut], name[cut + 1 :]
    return None, name[:_NAME]


def _is_foreign(name: bytes) -> bool:
    """Whether a name is text beyond ASCII: PAX tells that it is UTF-8.

    What is no text at all stays in the plain header if it can: nobody takes it for any there.
    """
    return not name.isascii() and _is_text(name)


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
