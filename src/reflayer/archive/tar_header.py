"""The header of a tar's entry: one block, its checksum, and what is known of an entry by it.

tar(5); POSIX pax, "ustar Interchange Format".
"""

from __future__ import annotations

import stat
import struct
from array import array
from functools import lru_cache
from zlib import adler32

from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
LARGEST = 2**63 - 1  # off_t and time_t

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
_MOST_SPANS = 1 << 20  # 16 MiB of map

_CHECKSUM = slice(148, 156)
_SIGN_BIT = 0x80


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
    """A field of octal digits among spaces, ended by NUL or space; 0 when blank.

    Raises:
        ValueError: it is none.
    """
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
    if field[0] < _SIGN_BIT:
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
    """One entry.

    Attributes:
        name: as in the archive, no NUL in it; the root's may be empty.
        type: one of the types above.
        size: bytes of data in the archive.
        mode: permission bits with setuid, setgid and sticky.
        uid, gid: owner and group, -1 for those that there are.
        atime, mtime: nanoseconds since the epoch; without an access time it is ``mtime``.
        target: where a hard or symbolic link points; else empty.
        device: major and minor number.
        attributes: extended attributes by name.
        sparse: where the data goes in a sparse file; else None.
    """

    __slots__ = (
        "atime", "attributes", "device", "gid", "mode", "mtime", "name", "size", "sparse", "target",
        "type", "uid",
    )  # fmt: skip

    def __init__(
        self,
        name: bytes,
        type: bytes,  # noqa: A002
        size: int,
        mode: int,
        uid: int,
        gid: int,
        atime: int,
        mtime: int,
        target: bytes,
        device: tuple[int, int],
        attributes: Mapping[str, bytes],
        sparse: SparseMap | None,
    ) -> None:
        self.name = name
        self.type = type
        self.size = size
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.atime = atime
        self.mtime = mtime
        self.target = target
        self.device = device
        self.attributes = attributes
        self.sparse = sparse


class SparseMap:
    """The spans of a file that hold data, in order; all else of it are holes.

    Attributes:
        size: the file's size in bytes, holes included.
        stored: bytes of data in all spans.
    """

    __slots__ = ("_lengths", "_offsets", "size", "stored")

    def __init__(
        self, spans: Iterator[tuple[int, int]], size: int, *, is_own: bool = False
    ) -> None:
        """Take (offset, length) of each span, at most 1,048,576 of them where it is not our own."""
        if size < 0:
            raise ArchiveError(f"its real size ({size}) is out of range")
        self.size = size
        self.stored = 0
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
