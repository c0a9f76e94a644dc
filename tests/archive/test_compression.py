"""A blob is told by its content, read once, and checked on the way."""

from __future__ import annotations

import bz2
import gc
import gzip
import hashlib
import io
import lzma
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from reflayer.archive import apply_layer, system_codecs
from reflayer.errors import ArchiveError, OperationError
from tests.archive.tars import apply, entry, tar, without_fast_libraries, zstd

CONTENT = os.urandom(1_300_000)
PLAIN = tar(entry("file", CONTENT), entry("other", b"more"))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstd,
    "bzip2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
}
COMPRESSED = ["gzip", "zstd", "bzip2", "xz"]


@pytest.fixture(autouse=True, params=["fast libraries", "usual libraries"])
def libraries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """isal and backports.zstd, and what is taken where they are not installed."""
    if request.param == "usual libraries":
        without_fast_libraries(monkeypatch)


@cache
def compressed(compression: str) -> bytes:
    """The archive in one of the compressions."""
    return COMPRESS[compression](PLAIN)


def sha256(data: bytes) -> str:
    """The digest as OCI writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("compression", COMPRESS)
def test_every_compression_is_told_by_its_content(compression: str, tmp_path: Path) -> None:
    blob = compressed(compression)

    applied = apply(tmp_path / "root", blob)

    assert (tmp_path / "root/file").read_bytes() == CONTENT
    assert (tmp_path / "root/other").read_bytes() == b"more"
    assert applied.digest == sha256(blob)
    assert applied.diff_id == sha256(PLAIN)
    assert (applied.size, applied.plain_size, applied.entries) == (len(blob), len(PLAIN), 2)
    assert applied.skipped == {}


@pytest.mark.parametrize("compression", COMPRESSED)
def test_several_members_one_after_another_are_one_layer(compression: str, tmp_path: Path) -> None:
    compress = COMPRESS[compression]
    cut = 765_432
    apply(tmp_path / "root", compress(PLAIN[:cut]) + compress(PLAIN[cut:]), diff_id=sha256(PLAIN))
    assert (tmp_path / "root/file").read_bytes() == CONTENT


@pytest.mark.parametrize("compression", COMPRESSED)
def test_zeros_may_follow_the_compressed_data(compression: str, tmp_path: Path) -> None:
    blob = compressed(compression) + bytes(1000)
    assert apply(tmp_path / "root", blob).digest == sha256(blob)


@pytest.mark.parametrize("compression", COMPRESSED)
def test_anything_else_after_the_compressed_data_is_an_error(
    compression: str, tmp_path: Path
) -> None:
    with pytest.raises(ArchiveError):
        apply(tmp_path / "root", compressed(compression) + b"something else entirely")


@pytest.mark.parametrize("left", [0.999999, 0.5, 0.01])
@pytest.mark.parametrize("compression", COMPRESS)
def test_a_truncated_blob_is_an_error(compression: str, left: float, tmp_path: Path) -> None:
    padding = -len(b"more") % 512 + 1024  # which may be missing
    blob = PLAIN[:-padding] if compression == "plain" else compressed(compression)
    with pytest.raises(ArchiveError, match="ends"):
        apply(tmp_path / "root", blob[: int(len(blob) * left)])


@pytest.mark.parametrize("compression", COMPRESSED)
def test_damaged_data_is_an_error(compression: str, tmp_path: Path) -> None:
    blob = bytearray(compressed(compression))
    blob[len(blob) // 2] ^= 0x10
    with pytest.raises(ArchiveError):
        apply(tmp_path / "root", bytes(blob), diff_id=sha256(PLAIN))


def test_skippable_frames_of_zstd_are_passed_over(tmp_path: Path) -> None:
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    apply(tmp_path / "root", skippable + zstd(PLAIN) + skippable, diff_id=sha256(PLAIN))
    assert (tmp_path / "root/other").read_bytes() == b"more"


def xz(dictionary: int) -> bytes:
    """The archive with a window of so many bytes."""
    return lzma.compress(PLAIN, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": dictionary}])


@pytest.mark.parametrize("blob", [zstd(PLAIN, window_log=29), xz(1 << 29)], ids=["zstd", "xz"])
def test_windows_are_taken_up_to_those_that_engines_take(blob: bytes, tmp_path: Path) -> None:
    apply(tmp_path / "root", blob, diff_id=sha256(PLAIN))


@pytest.mark.parametrize("blob", [zstd(PLAIN, window_log=30), xz(1 << 30)], ids=["zstd", "xz"])
def test_a_larger_window_is_an_error_by_its_name(blob: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="data needs a window of more than 512 MiB"):
        apply(tmp_path / "root", blob)


@pytest.mark.parametrize("flag", [8, 16], ids=["name", "comment"])
def test_a_gzip_header_without_an_end_is_an_error(flag: int, tmp_path: Path) -> None:
    blob = compressed("gzip")
    with pytest.raises(ArchiveError, match="gzip"):
        apply(tmp_path / "root", blob[:3] + bytes([flag]) + blob[4:10] + b"x" * 2_000_000)


def test_a_wrong_digest_is_an_error_that_names_both(tmp_path: Path) -> None:
    wrong = sha256(b"another")
    with pytest.raises(ArchiveError, match=f"{sha256(PLAIN)} but should be {wrong}"):
        apply(tmp_path / "root", PLAIN, digest=wrong)


def test_a_wrong_diff_id_is_an_error(tmp_path: Path) -> None:
    blob = gzip.compress(PLAIN, 1)
    with pytest.raises(ArchiveError, match="diff id"):
        apply(tmp_path / "root", blob, digest=sha256(blob), diff_id=sha256(b"another"))


def test_the_right_digests_and_size_are_taken(tmp_path: Path) -> None:
    blob = gzip.compress(PLAIN, 1)
    apply(tmp_path / "root", blob, digest=sha256(blob), diff_id=sha256(PLAIN), size=len(blob))


def test_a_sha512_digest_is_checked(tmp_path: Path) -> None:
    digest = "sha512:" + hashlib.sha512(PLAIN).hexdigest()
    assert apply(tmp_path / "root", PLAIN, digest=digest).digest == digest


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:XY", "md5:" + "0" * 32, "0" * 64])
def test_what_is_no_digest_is_refused(digest: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="digest"):
        apply(tmp_path / "root", PLAIN, digest=digest)


@pytest.mark.parametrize("more", [-1, 1, 1000])
def test_a_blob_of_another_size_is_an_error(more: int, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="bytes"):
        apply(tmp_path / "root", PLAIN, size=len(PLAIN) + more)


def test_no_more_is_read_than_promised(tmp_path: Path) -> None:
    blob = io.BytesIO(PLAIN + bytes(100_000_000))
    with pytest.raises(ArchiveError, match="longer than"):
        apply_layer(tmp_path, blob, size=len(PLAIN))
    assert blob.tell() < len(PLAIN) + 10_000_000


def test_what_follows_the_end_of_the_archive_counts_for_the_digest(tmp_path: Path) -> None:
    padded = PLAIN + bytes(10_000_000) + b"and whatever"
    assert apply(tmp_path / "root", padded).diff_id == sha256(padded)


def test_a_tar_whose_first_name_looks_like_compressed_data_is_a_tar(tmp_path: Path) -> None:
    for name in ("BZh91AY&SY", "\udcfd7zXZ", "(\udcb5/\udcfd"):
        apply(tmp_path / "root", tar(entry(name, b"content")))
        assert (tmp_path / "root" / name).read_bytes() == b"content"


def test_a_blob_that_cannot_be_read_is_an_operation_error(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 500_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(OperationError, match="Input/output error"):
        apply_layer(tmp_path, Broken(PLAIN))


def test_no_thread_is_left_after_success_or_failure(tmp_path: Path) -> None:
    apply(tmp_path / "root", PLAIN)
    with pytest.raises(ArchiveError):
        apply(tmp_path / "root", gzip.compress(b"x" * 5_000_000))
    assert [thread.name for thread in threading.enumerate() if "read-ahead" in thread.name] == []


def test_progress_counts_the_bytes_of_the_blob(tmp_path: Path) -> None:
    blob = gzip.compress(PLAIN, 1)
    told: list[int] = []
    apply(tmp_path / "root", blob, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == len(blob)


def test_without_any_zstd_one_line_tells_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    without_fast_libraries(monkeypatch)
    unseen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unseen.append)
    monkeypatch.setattr("ctypes.CDLL", missing)
    system_codecs._library.cache_clear()
    try:
        with pytest.raises(ArchiveError, match=r"zstd needs backports\.zstd or libzstd: libzstd"):
            apply(tmp_path / "root", compressed("zstd"))
        gc.collect()
    finally:
        system_codecs._library.cache_clear()
    assert not unseen
