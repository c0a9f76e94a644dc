"""The part in C reads an entry's headers as Python does, or leaves them to it."""

from __future__ import annotations

import tarfile
from importlib import import_module
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflayer.archive import tar_reader
from reflayer.archive.tar_header import format_records
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.errors import ArchiveError
from tests.archive.tars import entry, header, tar
from tests.archive.test_formats import raw
from tests.file_systems import require_native

KEYS = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime", b"ctime", b"comment",
        b"SCHILY.xattr.user.a", b"SCHILY.xattr.user.%3D", b"SCHILY.xattr.", b"SCHILY.xattr.a\0",
        b"SCHILY.xattr.\xff", b"LIBARCHIVE.xattr.user.b", b"GNU.sparse.size",
        b"GNU.sparse.name"]  # fmt: skip
VALUES = [b"", b"0", b"1", b"7.5", b"7.", b".5", b"-1", b"-0.5", b"8999999999.999999999",
          b"9000000000", b"9300000000", b"1.1234567899", b"1.5x", b"4294967294", b"4294967295",
          b"9223372036854775807", b"99999999999999999999", b"00000000000000000001", b"a\0b", b"a/b",
          b"x" * 300, b"\xff"]  # fmt: skip
RECORDS = st.dictionaries(
    st.sampled_from(KEYS), st.sampled_from(VALUES) | st.binary(max_size=12), max_size=4
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from([b"", b"a", b"a/", b"n" * 100, b"a\0b", b"\xff"]),
        "prefix": st.sampled_from([b"", b"p", b"p" * 155, b"00000000011\x0000000000012\0"]),
        "magic": st.sampled_from([b"ustar\x0000", b"ustar  \0", b"", b"ustar00\0"]),
        "star": st.sampled_from([b"tar\0", b"tarx"]),
        "type": st.sampled_from([bytes([kind]) for kind in b"01235\x0067SLgxz"]),
        "target": st.sampled_from([b"", b"t", b"t" * 100]),
        **{
            field: st.one_of(
                st.sampled_from([b"", b"0", b" 12 \0", b"12\0x", b"12 3", b"8", b"x", b"-1"]),
                st.sampled_from([b"\x80" + bytes(6) + b"\1", b"\xff" * 8, b"7" * 8]),
            )
            for field in ("mode", "uid", "gid", "size")
        },
        "mtime": st.sampled_from([b"", b"17", b"77777777777\0", b"7" * 12, b"\xff" * 12, b"x"]),
    },
)  # fmt: skip


def _extended(data: bytes) -> bytes:
    size = b"%011o\0" % len(data)
    return raw(name=b"x", type=b"x", size=size) + data + bytes(-len(data) % 512)


EXTENDED = RECORDS.map(lambda records: _extended(format_records(records)))
ORDINARY = {"mode": b"644", "uid": b"1", "gid": b"2", "size": b"4", "mtime": b"17"}
ENTRIES = st.one_of(st.just({}), FIELDS).map(
    lambda fields: raw(**ORDINARY | fields) + b"data" + bytes(508)
)
LONG = tar(entry("n" * 300, b"x" * 700), form=tarfile.GNU_FORMAT, end=False)
PARTS = st.one_of(st.tuples(EXTENDED, ENTRIES).map(b"".join), EXTENDED, ENTRIES, st.just(LONG))


def _read(archive: bytes, chunk: int) -> tuple[list[dict[str, object]], str]:
    """The facts of all entries, and the error that ended them."""
    view = memoryview(archive)
    stream = TarStream(view[start : start + chunk] for start in range(0, len(view), chunk))
    found = []
    try:
        for one in read_entries(stream):
            facts = {name: getattr(one, name) for name in type(one).__slots__}
            facts["sparse"] = one.sparse and [*one.sparse]
            found.append({**facts, "data": stream.all_data()})
    except ArchiveError as error:
        return found, repr((error.entry, str(error)))
    return found, ""


def _assert_same(archive: bytes, chunk: int = 1 << 20) -> None:
    found = _read(archive, chunk)
    with patch.object(tar_reader, "_ordinary", lambda *_: None):
        assert _read(archive, chunk) == found


@settings(max_examples=300)
@given(st.lists(PARTS, max_size=5), st.sampled_from([512, 1536, 1 << 20]))
def test_whatever_headers_say(parts: list[bytes], chunk: int) -> None:
    _assert_same(b"".join(parts) + bytes(1024), chunk)


@settings(max_examples=300)
@given(EXTENDED, st.integers(0, 1535), st.integers(0, 255), st.booleans())
def test_whatever_byte_is_another(extended: bytes, at: int, byte: int, fix: bool) -> None:
    whole = bytearray(extended + raw(name=b"a", **ORDINARY))
    at %= len(whole)
    whole[at] = byte
    start = at - at % 512
    if fix and start != 512:
        whole[start : start + 512] = header(bytes(whole[start : start + 512]))
    _assert_same(bytes(whole) + b"data" + bytes(508) + bytes(1024))


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_whatever_an_extended_header_has(data: bytes) -> None:
    _assert_same(_extended(data) + raw(name=b"a", **ORDINARY) + b"data" + bytes(1532))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("fields", [{}, {"prefix": b"p"}, {"type": b"5"}])
def test_whatever_a_record_says(key: bytes, fields: dict[str, bytes]) -> None:
    for value in VALUES:
        made = raw(**{"name": b"a", **ORDINARY, **fields})
        _assert_same(_extended(format_records({key: value})) + made + b"data" + bytes(1532))


def test_what_is_ordinary_python_need_not_read() -> None:
    require_native()
    tar_entry = import_module("reflayer.linux._names").tar_entry
    pax = {"mtime": "1.5", "atime": "2", "SCHILY.xattr.user.a": "v", "path": "p" * 300}
    archive = tar(entry("a", b"data", mode=0o4755, uid=7, pax=pax))
    at, facts, attributes = tar_entry(archive, 0)
    assert (at, facts[0], facts[1:5]) == (1024, b"p" * 300, (b"0", 4, 0o4755, 7))
    assert (facts[6:], attributes) == ((2 * 10**9, 1_500_000_000, b""), {"user.a": b"v"})
    assert tar_entry(archive[:1535], 0) is None  # not all of it is there
    for outside in (-1, len(archive), len(archive) + 1, -(1 << 62), (1 << 62)):
        assert tar_entry(archive, outside) is None
    with pytest.raises(TypeError):
        tar_entry("text", 0)
