"""One header block of a tar: its fields and its checksum (tar(5), POSIX pax: ustar format)."""

from __future__ import annotations

import struct
from functools import lru_cache
from zlib import adler32

from reflayer.errors import ArchiveError

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
LARGEST = 2**63 - 1  # off_t and time_t

USTAR_MAGIC = b"ustar\x00"
GNU_MAGIC = b"ustar "

# name mode uid gid size mtime checksum type linkname magic version - - major minor prefix
FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s6s2s64x8s8s155s12x")

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
