"""PAX extended headers: records of key and value (POSIX pax, "pax Extended Header")."""

from __future__ import annotations

import os
from functools import lru_cache

from reflayer.archive.tar_header import LARGEST
from reflayer.errors import ArchiveError

Records = dict[bytes, bytes]

_SCHILY_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_SPARSE_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_SPARSE_MAP = b"GNU.sparse.map"
_LONGEST_LENGTH = 20  # digits


def parse_records(data: bytes) -> Records:
    """The records of one extended header; of those with the same key the last.

    GNU's sparse format 0.0 repeats two keys for each span: they come joined under the one key that
    format 0.1 uses.

    Raises:
        ArchiveError: a record is malformed.
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


def decimal(value: bytes, what: str) -> int:
    """A whole number of zero or more.

    Raises:
        ArchiveError: it is none, or beyond 63 bits.
    """
    if not value.isdigit() or len(value) > _LONGEST_LENGTH or int(value) > LARGEST:
        raise ArchiveError(f"its {what} is not a number in range: {value[:40]!r}")
    return int(value)


def signed_decimal(value: bytes, what: str) -> int:
    """The same with a sign before it where it is less than zero."""
    is_negative = value.startswith(b"-")
    return -decimal(value[1:], what) if is_negative else decimal(value, what)


def nanoseconds(value: bytes, what: str) -> int:
    """A time in decimal seconds as nanoseconds since the epoch; further digits are dropped.

    Raises:
        ArchiveError: it is none, or beyond 63 bits of seconds.
    """
    seconds, _, fraction = value.removeprefix(b"-").partition(b".")
    if (
        not seconds.isdigit()
        or not (fraction or b"0").isdigit()
        or len(seconds) > _LONGEST_LENGTH
        or int(seconds) > LARGEST
    ):
        raise ArchiveError(f"its {what} is not a time in range: {value[:40]!r}")
    time = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -time if value.startswith(b"-") else time


common_nanoseconds = lru_cache(maxsize=512)(nanoseconds)  # times repeat


def extended_attributes(records: Records) -> dict[str, bytes]:
    """The extended attributes among ``records``, by name.

    GNU tar writes "=" and "%" in a name as %3D and %25; libarchive encodes name and value. ACLs as
    texts (SCHILY.acl) are not read, as by no tool for layers.

    Raises:
        ArchiveError: a name or value is malformed.
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
