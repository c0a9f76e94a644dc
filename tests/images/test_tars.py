"""``tar:``: a root file system's tar, in any usual compression, is an image of one layer."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.errors import ImageError, OperationError
from reflayer.images.content.blob_store import BlobStore
from reflayer.images.model.image import Image
from reflayer.images.model.platform import Platform
from reflayer.images.transports import open_source
from tests.archive.tars import entry, folder, tar, zstd
from tests.file_systems import mounted, require
from tests.images.layouts import LAYER, sha256

DATA = random.Random(1).randbytes(3_000_000)
PLAIN = tar(folder("etc"), entry("etc/file", DATA))
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstd,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


@pytest.fixture
def content(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def fetch(path: Path | str, content: BlobStore, platform: str | None = None) -> Image:
    wanted = Platform.parse(platform) if platform else None
    return open_source(f"tar:{path}").fetch(content, wanted, None)[0]  # type: ignore[union-attr]


def leftovers(content: BlobStore) -> list[str]:
    return os.listdir(Path(content.folder) / "tmp")


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_tar_is_an_image_of_one_layer(
    compression: str, content: BlobStore, tmp_path: Path
) -> None:
    blob = COMPRESS[compression](PLAIN)
    (tmp_path / "root.tar").write_bytes(blob)

    image = fetch(tmp_path / "root.tar", content)

    kept, suffix = {"gzip": (blob, "+gzip"), "zstd": (blob, "+zstd")}.get(compression, (PLAIN, ""))
    assert image.diff_ids == image.chain_ids == (sha256(PLAIN),)
    assert [(one.media_type, one.digest, one.size) for one in image.layers] == [
        (LAYER + suffix, sha256(kept), len(kept))
    ]
    assert content.open(sha256(kept)).read() == kept
    assert image.platform == Platform.of_machine()
    assert leftovers(content) == []


def test_the_same_tar_is_the_same_image_anywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(tar(entry("file", b"content", uid=0, gid=0)))
    images = [
        fetch(tmp_path / n, BlobStore(tmp_path / f"content-{n}"), "linux/amd64") for n in "ab"
    ]
    assert images[0] == images[1]
    # Whatever version makes it: containers refer to it by this.
    assert images[0].id == (
        "sha256:72780f4d158e311e5cde86e7cac261241b6d44ed19314e44b06a0ffcb7409341"
    )


def test_the_platform_may_be_said(content: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(PLAIN)
    image = fetch(tmp_path / "root.tar", content, "linux/arm/v6")
    config = json.loads(content.open(image.id).read())
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm", "v6")


@pytest.mark.parametrize("compression", ["plain", "gzip", "xz"])
def test_a_tar_may_come_through_a_pipe(compression: str, content: BlobStore) -> None:
    blob = COMPRESS[compression](PLAIN)
    read_end, write_end = os.pipe()

    def write() -> None:
        with open(write_end, "wb") as pipe:
            pipe.write(blob)

    thread = threading.Thread(target=write)
    thread.start()
    image = fetch(f"/proc/self/fd/{read_end}", content)
    thread.join()
    os.close(read_end)
    assert image.diff_ids == (sha256(PLAIN),)


def test_an_empty_tar_is_an_image(content: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(tar())
    assert fetch(tmp_path / "root.tar", content).diff_ids == (sha256(tar()),)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is not a tar"),
        (b"#!/bin/sh\n" * 1000, "it is not a tar"),
        (gzip.compress(b"no tar at all"), "it is not a tar"),
        (gzip.compress(PLAIN)[:-100_000], "ends too early"),
        (lzma.compress(PLAIN, preset=0)[:-100], "ends too early"),
        (gzip.compress(PLAIN) + b"and more", "gzip"),
    ],
)
def test_what_is_no_tar_is_refused(
    data: bytes, reason: str, content: BlobStore, tmp_path: Path
) -> None:
    (tmp_path / "root.tar").write_bytes(data)
    with pytest.raises(ImageError, match=reason) as caught:
        fetch(tmp_path / "root.tar", content)
    assert str(tmp_path / "root.tar") in str(caught.value)
    assert list(content.digests()) == []
    assert leftovers(content) == []
    assert [thread for thread in threading.enumerate() if "read-ahead" in thread.name] == []


def test_a_file_that_is_not_there_is_named(content: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=f"{tmp_path}/root.tar: open: No such file"):
        fetch(tmp_path / "root.tar", content)


def test_progress_ends_at_the_size_of_the_file(content: BlobStore, tmp_path: Path) -> None:
    blob = gzip.compress(PLAIN)
    (tmp_path / "root.tar").write_bytes(blob)
    told: list[tuple[str, int, int | None]] = []
    source = open_source(f"tar:{tmp_path}/root.tar")
    source.fetch(content, None, lambda *values: told.append(values))  # type: ignore[union-attr]
    assert told == sorted(told)
    assert told[-1] == ("fetch", len(blob), len(blob))


@pytest.mark.root
@pytest.mark.parametrize("compression", COMPRESS)
def test_a_full_disk_is_one_clear_error_and_nothing_is_left(
    compression: str, tmp_path: Path
) -> None:
    (tmp_path / "root.tar").write_bytes(COMPRESS[compression](PLAIN))
    with mounted("tmpfs", tmp_path / "small", 2 << 20) as place:
        content = BlobStore(place / "content")
        with pytest.raises(OperationError, match="No space left on device"):
            fetch(tmp_path / "root.tar", content)
        assert list(content.digests()) == []
        assert leftovers(content) == []
    assert [thread for thread in threading.enumerate() if "read-ahead" in thread.name] == []


@pytest.mark.parametrize("compression", [name for name in COMPRESS if name != "zstd"])
def test_umoci_unpacks_what_is_kept(compression: str, content: BlobStore, tmp_path: Path) -> None:
    require("umoci")
    (tmp_path / "root.tar").write_bytes(COMPRESS[compression](PLAIN))
    content.tag("x", fetch(tmp_path / "root.tar", content).manifest)
    unpack = ["umoci", "unpack", "--rootless", "--image", f"{content.folder}:x"]
    subprocess.run([*unpack, tmp_path / "out"], check=True, capture_output=True)
    assert (tmp_path / "out/rootfs/etc/file").read_bytes() == DATA
