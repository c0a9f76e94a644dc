"""What the formats of tar say of an entry: ustar, PAX, GNU, star, V7, and sparse files."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflayer.archive.tar_header import Entry
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.errors import ArchiveError
from tests.archive.tars import apply, blocks, entry, header, tar, xattr
from tests.trees import facts


def read(archive: bytes, chunk: int = 512) -> list[Entry]:
    """Every entry of the archive, which comes in chunks of ``chunk`` bytes."""

    def chunks() -> Iterator[memoryview]:
        for start in range(0, len(archive), chunk):
            yield memoryview(archive)[start : start + chunk]

    return list(read_entries(TarStream(chunks())))


def one(archive: bytes) -> Entry:
    """The only entry of the archive."""
    (found,) = read(archive)
    return found


def raw(**fields: bytes) -> bytes:
    """A header block by field, as ustar has it unless told otherwise."""
    places = {"name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8),
              "size": (124, 12), "mtime": (136, 12), "type": (156, 1), "target": (157, 100),
              "magic": (257, 8), "major": (329, 8), "minor": (337, 8), "prefix": (345, 155),
              "sparse": (386, 126), "star": (508, 4)}  # fmt: skip
    block = bytearray(512)
    for field, value in {"magic": b"ustar\x0000", "type": b"0", **fields}.items():
        start, size = places[field]
        assert len(value) <= size
        block[start : start + len(value)] = value
    return header(bytes(block))


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("chunk", [512, 1024, 4096, 1 << 20])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_the_same(form: int, chunk: int) -> None:
    long = "d" * 80 + "/" + "n" * 90
    items = [entry(long, b"x" * 1000, mode=0o4751, uid=1000, gid=2000, mtime=7),
             entry("link", kind="symlink", target="t" * 100),
             entry("dev", kind="char", device=(5, 1))]  # fmt: skip
    file, link, device = read(tar(*items, form=form), chunk)  # type: ignore[arg-type]
    assert (file.name, file.size, file.mode) == (long.encode(), 1000, 0o4751)
    assert (file.uid, file.gid, file.mtime, file.atime) == (1000, 2000, 7 * 10**9, 7 * 10**9)
    assert link.target == b"t" * 100
    assert device.device == (5, 1)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_targets_of_any_length_are_read(form: int) -> None:
    name, target = "n/" * 3000 + "n", "t/" * 3000 + "t"
    items = [entry(name, kind="symlink", target=target), entry("short", b"x")]
    link, short = read(tar(*items, form=form))  # type: ignore[arg-type]
    assert (link.name, link.target) == (name.encode(), target.encode())
    assert (short.name, short.target) == (b"short", b"")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_numbers_too_large_for_octal_are_read(form: int) -> None:
    item = entry("file", uid=3_000_000_000, gid=2_097_152, mtime=2**35)
    found = one(tar(item, form=form))  # type: ignore[arg-type]
    assert (found.uid, found.gid, found.mtime) == (3_000_000_000, 2_097_152, 2**35 * 10**9)


@pytest.mark.parametrize(
    ("value", "time"),
    [("-0.5", -500_000_000), ("-1.000000001", -1_000_000_001), ("1.1234567899", 1_123_456_789),
     ("5", 5_000_000_000), ("5.", 5_000_000_000), ("32503680000.25", 32_503_680_000_250_000_000)],
)  # fmt: skip
def test_times_have_nanoseconds_and_may_be_before_1970(value: str, time: int) -> None:
    assert one(tar(entry("file", pax={"mtime": value}))).mtime == time


def test_gnu_times_before_1970_are_read() -> None:
    assert one(tar(entry("file", mtime=-5), form=tarfile.GNU_FORMAT)).mtime == -5 * 10**9


def test_a_v7_header_is_read_and_a_slash_at_its_end_makes_it_a_folder() -> None:
    file, folder = read(
        raw(name=b"file", magic=b"", type=b"\0", size=b"0\0")
        + raw(name=b"dir/", magic=b"", type=b"\0")
    )
    assert (file.type, folder.type) == (b"0", b"5")


def test_fields_without_an_end_and_with_spaces_are_read() -> None:
    found = one(raw(name=b"n" * 100, mode=b" 0755 \0", uid=b"00000010", size=b"           0"))
    assert (found.name, found.mode, found.uid, found.size) == (b"n" * 100, 0o755, 8, 0)


def test_star_and_gnu_keep_times_where_ustar_keeps_the_prefix() -> None:
    assert (
        one(raw(name=b"n", prefix=b"p" + bytes(130) + b"00000000007 ", star=b"tar\0")).name
        == b"p/n"
    )
    assert one(raw(name=b"n", prefix=b"p" * 155)).name == b"p" * 155 + b"/n"
    found = one(raw(name=b"n", magic=b"ustar  \0", prefix=b"00000000011\x0000000000012\0"))
    assert (found.name, found.atime) == (b"n", 9 * 10**9)


def test_a_size_on_a_type_without_data_means_nothing() -> None:
    link = raw(name=b"a", type=b"1", target=b"t", size=b"00000001000\0")
    assert [found.name for found in read(link + raw(name=b"b"))] == [b"a", b"b"]


def test_a_local_header_holds_for_the_next_entry_and_a_global_one_for_none() -> None:
    shared = tar(entry("g", b"9 uid=42\n9 gid=43\n"), end=False)
    archive = (
        raw(name=b"a") + header(shared[:156] + b"g" + shared[157:]) + raw(name=b"b")
        + extended(b"9 uid=44\n") + extended(b"9 gid=45\n") + raw(name=b"c") + raw(name=b"d")
    )  # fmt: skip
    owners = [(found.uid, found.gid) for found in read(archive)]
    assert owners == [(0, 0), (0, 0), (0, 45), (0, 0)]


def test_attributes_of_libarchive_are_read_beside_those_of_star() -> None:
    pax = {"LIBARCHIVE.xattr.user.a%25b": "dmFsdWU=", "LIBARCHIVE.xattr.user.short": "dmFsdWU",
           xattr("user.c%3Dd"): "x", xattr("user.both"): "star",
           "LIBARCHIVE.xattr.user.both": "b3RoZXI"}  # fmt: skip
    assert one(tar(entry("file", pax=pax))).attributes == {
        "user.a%b": b"value",
        "user.short": b"value",
        "user.c=d": b"x",
        "user.both": b"star",
    }


@pytest.mark.parametrize("zeros", [0, 1, 2, 20])
def test_the_blocks_of_zeros_at_the_end_may_be_missing(zeros: int) -> None:
    archive = tar(entry("a", b"x"), entry("b", b"y"), end=False) + bytes(512 * zeros)
    assert [found.name for found in read(archive)] == [b"a", b"b"]


@pytest.mark.parametrize("size", [1, 100, 511, 512])
def test_what_fills_the_last_block_may_be_missing(size: int) -> None:
    archive = tar(entry("a", b"x"), entry("b", b"y"), end=False)
    assert [one.name for one in read(archive[: 512 * 3 + size])] == [b"a", b"b"]


def test_what_follows_the_end_is_not_read() -> None:
    assert [found.name for found in read(tar(entry("a")) + tar(entry("b")))] == [b"a"]


def test_an_archive_with_nothing_in_it_is_an_empty_layer(tmp_path: Path) -> None:
    assert apply(tmp_path / "root", bytes(10240)).entries == 0
    assert apply(tmp_path / "root", b"").entries == 0


MiB = 1 << 20
SPANS = [(0, 4096), (MiB, 8192), (3 * MiB, 0)]
STORED = os.urandom(4096 + 8192)


def old_gnu() -> bytes:
    """GNU's own type ``S``, of which the last span is in an extension block."""
    number = b"%011o\0"
    filler = [(2 * MiB, 0)] * 2
    every = [*SPANS[:2], *filler, SPANS[2]]
    packed = [number % offset + number % length for offset, length in every]
    in_header = b"".join(packed[:4]) + b"\x01" + number % (3 * MiB)
    block = raw(
        name=b"file", type=b"S", magic=b"ustar  \0", size=number % len(STORED), sparse=in_header
    )
    return block + b"".join(packed[4:]).ljust(512, b"\0") + STORED


def pax_0_0() -> bytes:
    """A pair of records for each span, which repeat."""
    records = b"".join(
        record(b"GNU.sparse.offset", offset) + record(b"GNU.sparse.numbytes", length)
        for offset, length in SPANS
    )
    records = record(b"GNU.sparse.size", 3 * MiB) + record(b"GNU.sparse.numblocks", 3) + records
    return extended(records) + raw(name=b"file", size=b"%011o\0" % len(STORED)) + STORED


def pax_0_1() -> bytes:
    """All spans in one record."""
    spans = b",".join(b"%d,%d" % span for span in SPANS)
    records = record(b"GNU.sparse.name", b"file") + record(b"GNU.sparse.size", 3 * MiB)
    records += record(b"GNU.sparse.map", spans)
    return extended(records) + raw(name=b"fake", size=b"%011o\0" % len(STORED)) + STORED


def pax_1_0() -> bytes:
    """The spans in front of the data."""
    spans = b"%d\n" % len(SPANS) + b"".join(b"%d\n%d\n" % span for span in SPANS)
    stored = spans.ljust(512, b"\0") + STORED
    records = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
    records += record(b"GNU.sparse.name", b"file") + record(b"GNU.sparse.realsize", 3 * MiB)
    return extended(records) + raw(name=b"fake", size=b"%011o\0" % len(stored)) + stored


def record(key: bytes, value: bytes | int) -> bytes:
    """One PAX record."""
    rest = b" %s=%s\n" % (key, value if isinstance(value, bytes) else b"%d" % value)
    size = len(rest) + 2
    size += len(str(size)) - 2
    return b"%d" % size + rest


def extended(records: bytes) -> bytes:
    """An extended header for the next entry."""
    padded = records + bytes(-len(records) % 512)
    return raw(name=b"x", type=b"x", size=b"%011o\0" % len(records)) + padded


SPARSE = {"old": old_gnu, "0.0": pax_0_0, "0.1": pax_0_1, "1.0": pax_1_0}


@pytest.mark.parametrize("form", SPARSE)
def test_a_sparse_file_has_its_data_in_place_and_its_holes(form: str, place: Path) -> None:
    archive = SPARSE[form]() + b"".join(blocks([entry("next", b"next")]))
    apply(place / "root", archive)
    content = (place / "root/file").read_bytes()
    assert len(content) == 3 * MiB
    assert content[:4096] == STORED[:4096]
    assert content[MiB : MiB + 8192] == STORED[4096:]
    assert not any(content[4096:MiB])
    assert not any(content[MiB + 8192 :])
    assert facts(place / "root", holes=True)[b"file"].holes == ((0, 4096), (MiB, MiB + 8192))
    assert (place / "root/next").read_bytes() == b"next"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"1048576", b"0001000"), (b"8192", b"8193"), (b"4096", b"4095"), (b"3\n0", b"4\n0"),
        (b"3\n0", b"9\n0"), (b"1048576", b"9999999"), (b"3\n0", b"x\n0"),
        (b"3\n0\n4096\n1048576", b"999999999999999999"),
    ],
)  # fmt: skip
def test_nonsense_in_a_sparse_map_is_an_error_that_names_the_file(
    before: bytes, after: bytes, tmp_path: Path
) -> None:
    archive = pax_1_0()
    assert before in archive
    with pytest.raises(ArchiveError, match=r"^file: its sparse map"):
        apply(tmp_path / "root", archive.replace(before, after, 1))


@pytest.mark.parametrize(
    "records",
    [
        record(b"GNU.sparse.size", 10) + record(b"GNU.sparse.map", b"1,2,3"),
        record(b"GNU.sparse.size", 10) + record(b"GNU.sparse.map", b"5,2,1,2"),
        record(b"GNU.sparse.size", 10) + record(b"GNU.sparse.map", b"-1,2"),
        record(b"GNU.sparse.size", 10) + record(b"GNU.sparse.map", b"9223372036854775807,9"),
        record(b"GNU.sparse.size", 10) + record(b"GNU.sparse.numbytes", 5),
        record(b"GNU.sparse.size", b"much"),
    ],
)
def test_nonsense_in_a_sparse_header_is_an_error(records: bytes) -> None:
    with pytest.raises(ArchiveError):
        read(extended(records) + raw(name=b"file"))
