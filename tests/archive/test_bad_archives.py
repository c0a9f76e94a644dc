"""A bad archive is one clear error that names the entry, soon and in little memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.errors import ArchiveError, OperationError
from tests.archive.tars import apply, entry, folder, tar, xattr, zstd
from tests.archive.test_formats import extended, raw, record
from tests.file_systems import mounted, require_root

MiB = 1 << 20
PlaceOn = Callable[[str], Path]
HUGE = (
    b"\x80" + (2**62).to_bytes(11, "big"),
    b"\x80" + b"\xff" * 11,
    b"\xff" * 12,
    b"777777777777",
)
MANY = record(b"comment", b"x" * 1000) * 1040


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(
    ("archive", "message"),
    [
        pytest.param(tar(entry("a", b"x" * 2000))[:1500], "a: the archive ends", id="in data"),
        pytest.param(tar(entry("a"), entry("b"))[:700], "a: the archive ends", id="in a header"),
        pytest.param(extended(record(b"uid", 1)), "ends before the entry", id="after a PAX header"),
        pytest.param(raw(name=b"x", type=b"x", size=b"100\0"), "x: the archive ends", id="in PAX"),
        pytest.param(b"garbage" * 1000, "^the first header", id="garbage"),
        pytest.param(gzip.compress(b"garbage" * 1000), "checksum", id="garbage in gzip"),
        pytest.param(b"short", "ends in the middle of a header", id="short"),
        pytest.param(bytes(512) + tar(entry("a")), "single block of zeros", id="lone zeros"),
        pytest.param(raw(name=b"a", type=b"Z"), "^a: it is of an unknown type", id="type"),
        pytest.param(raw(name=b"a", type=b"M"), "^a: it is of an unknown type", id="multi-volume"),
        pytest.param(raw(name=b"a", size=b"12x4\0"), "a: its size is not a number", id="size"),
        pytest.param(raw(name=b"a", mode=b"rwxr-x"), "a: its mode is not a number", id="mode"),
        pytest.param(raw(name=b"a", uid=b"\xff\0" * 4), "^a: .*out of range", id="negative uid"),
        pytest.param(raw(name=b"a", gid=b"\x80\0\0\1" + b"\0" * 4), "out of range", id="large gid"),
        pytest.param(raw(name=b""), "^[.]: it is the layer's root, and no folder", id="no name"),
        pytest.param(extended(record(b"path", b"a\0b")) + raw(name=b"a"), "NUL", id="NUL in name"),
        pytest.param(extended(b"7 uid=1\n" * 2) + raw(name=b"a"), "malformed", id="length"),
        pytest.param(extended(b"99 uid=1\n") + raw(name=b"a"), "malformed", id="beyond"),
        pytest.param(extended(b"uid=1\n") + raw(name=b"a"), "without a length", id="no length"),
        pytest.param(extended(b"5 =1\n") + raw(name=b"a"), "malformed", id="no key"),
        pytest.param(extended(record(b"uid", b"--1")) + raw(name=b"a"), "uid", id="PAX uid"),
        pytest.param(extended(record(b"gid", -(2**32))) + raw(name=b"a"), "range", id="PAX gid"),
        pytest.param(extended(record(b"size", b"9" * 19)) + raw(name=b"a"), "size", id="PAX size"),
        pytest.param(extended(record(b"mtime", b"1e9")) + raw(name=b"a"), "mtime", id="PAX time"),
        pytest.param(extended(MANY) + raw(name=b"a"), "too many", id="huge PAX header"),
        pytest.param(raw(name=b"n", type=b"L", size=b"00010000000\0"), "too many", id="long name"),
        pytest.param(raw(name=b"a", type=b"3", major=b"7777777"), "device number", id="major"),
        pytest.param(raw(name=b"a", type=b"2"), "link to nowhere", id="no target"),
        pytest.param(raw(name=b"a", type=b"1", target=b"/"), "the layer.s root", id="to root"),
        pytest.param(raw(name=b"."), "root, and no folder", id="a root that is a file"),
        pytest.param(tar(entry("d/" * 40_000 + "d")), "^d/d/.*too many", id="too deep"),
        pytest.param(tar(entry("n" * 300)), "File name too long", id="long name"),
        pytest.param(tar(entry("a", kind="symlink", target="t" * 5000)), "too long", id="target"),
        pytest.param(tar(entry("a", pax={xattr("user."): ""})), "a: its attribute", id="xattr"),
        pytest.param(
            tar(entry("a", kind="fifo", pax={xattr("user.overlay.x"): ""})),
            "a: its attribute user.overlay.x cannot",
            id="xattr that is escaped",
        ),
        pytest.param(tar(folder("a", pax={xattr("system.posix_acl_default"): "?"})), "^a: its attr",
                     id="ACL"),
        pytest.param(tar(entry("a", pax={"LIBARCHIVE.xattr.user.a": "x"})), "base64", id="base64"),
        *[pytest.param(raw(name=b"a", size=size) + bytes(4096), "^a: ", id=f"size {size[0]}")
          for size in HUGE],
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_error_that_names_the_entry(
    archive: bytes, message: str, tmp_path: Path
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match=message) as raised:
            apply(tmp_path / "root", archive)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value)


def test_a_flipped_bit_in_a_header_is_an_error(tmp_path: Path) -> None:
    archive = bytearray(tar(entry("a"), entry("b")))
    archive[512 + 3] ^= 1
    with pytest.raises(ArchiveError, match=r"^a: the header after it has a wrong checksum"):
        apply(tmp_path / "root", bytes(archive))


def test_a_signed_checksum_is_taken_as_well(tmp_path: Path) -> None:
    require_root()  # the entry is root's
    block = bytearray(raw(name=b"\xff\xfe"))
    signed = sum(byte - 256 * (byte > 127) for byte in block[:148] + b" " * 8 + block[156:])
    block[148:156] = b"%06o\0 " % signed
    apply(tmp_path / "root", bytes(block))
    assert os.listdir(os.fsencode(tmp_path / "root")) == [b"\xff\xfe"]


def long_name(name: bytes) -> bytes:
    """GNU's header of a name that is too long for that of its entry."""
    return raw(type=b"L", name=b"n", size=b"%011o\0" % len(name)) + name + bytes(-len(name) % 512)


def globals_() -> bytes:
    """100,000 records for all entries, of which there are many."""
    records = b"".join(record(b"SCHILY.xattr.user.%d" % n, b"") for n in range(25_000))
    header = raw(name=b"g", type=b"g", size=b"%011o\0" % len(records))
    return (header + records + bytes(-len(records) % 512)) * 4 + raw(name=b"a") * 10_000


def emptied() -> bytes:
    """A folder with many names that is emptied of those of lower layers again and again."""
    return tar(*[entry(f"dir/{n}") for n in range(5000)], *[entry("dir/.wh..wh..opq")] * 5000)


def deep() -> bytes:
    """Names of 30,000 folders each."""
    return b"".join(long_name(b"%d/" % n + b"a/" * 30_000) + raw(name=b"n") for n in range(20))


def extended_again() -> bytes:
    """One large extended header, and many small ones after it."""
    large = b"".join(record(b"key-%d" % n, b"") for n in range(60_000))
    return extended(large) + extended(record(b"key", b"")) * 5000 + raw(name=b"a")


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("archive", [globals_, emptied, deep, extended_again])
def test_what_would_take_long_ends_soon(archive: Callable[[], bytes], place_on: PlaceOn) -> None:
    root = place_on("tmpfs") / "root"
    apply(root, tar(folder("dir"), entry("dir/file")))
    layer = archive()
    before = time.process_time()
    with contextlib.suppress(ArchiveError):
        apply(root, layer)
    assert time.process_time() - before < 8  # seconds, for one or two megabytes


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd, bz2.compress, lzma.compress])
def test_a_layer_with_flipped_bits_is_the_same_or_an_error_in_one_line(
    compress: Callable[[bytes], bytes], seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    layer = tar(*[entry(f"{n % 3}/{n}", chance.randbytes(n * 40)) for n in range(40)])
    diff_id = "sha256:" + hashlib.sha256(layer).hexdigest()
    for n in range(20):
        blob = bytearray(compress(layer))
        for _ in range(chance.randrange(1, 4)):
            # The first bytes say most, and those of a header that ends nowhere.
            place = min(chance.randrange(len(blob)), chance.choice((20, 600, len(blob))) - 1)
            blob[place] ^= 1 << chance.randrange(8)
        blob = blob[: chance.randrange(len(blob))] if chance.random() < 0.1 else blob
        said = ""
        try:
            apply(tmp_path / f"{n}", bytes(blob), diff_id=diff_id)
        except (ArchiveError, OperationError) as error:
            said = str(error)
        assert said.isprintable()


APPLY = """
import resource, sys
from reflayer.archive import apply_layer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as blob:
    apply_layer(sys.argv[2], blob)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bytes])
def test_a_large_layer_takes_little_memory(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    files = [entry(f"{n % 50}/{n}") for n in range(5000)]
    (tmp_path / "blob").write_bytes(compress(tar(entry("zeros", bytes(100 * MiB)), *files)))
    (tmp_path / "root").mkdir()
    command = [sys.executable, "-c", APPLY, str(tmp_path / "blob"), str(tmp_path / "root")]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(answer.stdout) < 40 * 1024  # KiB


@pytest.mark.parametrize("kind", ["xfs", "tmpfs"])
def test_a_full_disk_is_an_error_that_names_the_path_and_the_reason(
    kind: str, tmp_path: Path
) -> None:
    size = 300 << 20 if kind == "xfs" else 8 << 20
    with mounted(kind, tmp_path, size) as place:
        archive = tar(folder("dir"), entry("dir/large", b"x" * (size + MiB)))
        with pytest.raises(OperationError, match=r"dir/large: .*No space left on device"):
            apply(place / "root", archive)


def test_a_root_that_is_not_there_is_an_operation_error(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="No such file"):
        apply(str(tmp_path / "missing"), tar())


@pytest.mark.usefixtures("both_ways")
def test_no_descriptor_is_left_open_by_an_error(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    folders = [folder(str(n)) for n in range(100)]
    for bad in (b"x" * 512, raw(name=b"a", type=b"Z"), raw(name=b"1/a", type=b"1", target=b"1/no")):
        with pytest.raises(ArchiveError):
            apply(tmp_path / "root", tar(*folders, end=False) + bad)
        assert count() == before
