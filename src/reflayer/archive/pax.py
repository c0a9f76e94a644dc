"""PAX extended headers, read and written: records of key and value (POSIX pax).

Extended attributes are GNU tar's ``SCHILY.xattr``, read from libarchive's form, too. Where the data
of a sparse file lies is in one of GNU tar's formats 0.0 to 1.0 (its manual, "Storing Sparse
Files"); 1.0 is written.
"""

from __future__ import annotations

import os
from functools import lru_cache

from reflayer.archive.tar_header import BLOCK, LARGEST, SparseMap, padding
from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Records = dict[bytes, bytes]

SECOND = 1_000_000_000  # nanoseconds
_SCHILY_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_SPARSE_PAIR = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
_SPARSE_MAP = b"GNU.sparse.map"
_LONGEST_LENGTH = 20  # digits


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


common_nanoseconds = lru_cache(maxsize=512)(nanoseconds)  # times repeat


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
