"""``docker-archive:`` and ``oci-archive:``: what programs write to a tar, in all its layouts."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.errors import ImageError, OperationError
from reflayer.images.content.blob_store import BlobStore
from reflayer.images.model.image import Image
from reflayer.images.model.platform import Platform
from reflayer.images.transports import open_source
from tests.archive.tars import Entry, entry, tar, zstd
from tests.file_systems import mounted, require, require_root
from tests.images.layouts import LAYER, Layout, config, layer, sha256

ONE, TWO = layer("one", random.Random(1).randbytes(300_000)), layer("two")
CONFIG = config(ONE, TWO, created="2024-01-01T00:00:00Z", container="docker's own")


@pytest.fixture
def content(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def saved(*images: Mapping[str, object]) -> Entry:
    """``manifest.json``."""
    return entry("manifest.json", json.dumps(images).encode())


def image_of(
    layers: Sequence[str], tags: Sequence[str] | None = ("x:1",), config: str = "config.json"
) -> dict[str, object]:
    return {"Config": config, "RepoTags": tags, "Layers": layers}


def legacy() -> list[Entry]:
    """As Docker wrote it up to version 24."""
    return [
        entry("11", kind="folder"),
        entry("11/VERSION", b"1.0"),
        entry("11/json", b"{}"),
        entry("11/layer.tar", ONE),
        entry("22/layer.tar", TWO),
        entry("config.json", CONFIG),
        saved(image_of(["11/layer.tar", "22/layer.tar"])),
        entry("repositories", b"{}"),
    ]


def current() -> list[Entry]:
    """As Docker writes it from version 25 on: an OCI layout, and manifest.json."""

    def blob(data: bytes) -> Entry:
        return entry(f"blobs/{sha256(data).replace(':', '/')}", data)

    blobs = [blob(data) for data in (CONFIG, ONE, TWO)]
    names = [info.name for info, _ in blobs]
    return [
        entry("blobs", kind="folder"),
        *blobs,
        entry("index.json", b"{}"),
        saved(image_of(names[1:], config=names[0])),
        entry("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
    ]


def fetch(path: Path, content: BlobStore, which: str = "", platform: str | None = None) -> Image:
    source = open_source(f"docker-archive:{path}{which}")
    wanted = Platform.parse(platform) if platform else None
    return source.fetch(content, wanted, None)[0]  # type: ignore[union-attr]


def name_of(path: Path, which: str = "") -> str:
    return open_source(f"docker-archive:{path}{which}").name


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd, bz2.compress, lzma.compress])
@pytest.mark.parametrize("layout", [legacy, current])
def test_an_archive_is_an_image_of_plain_layers(
    layout: Callable[[], list[Entry]],
    compress: Callable[[bytes], bytes],
    content: BlobStore,
    tmp_path: Path,
) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(compress(tar(*layout())))

    image = fetch(path, content)

    assert image.id == sha256(CONFIG)
    assert image.diff_ids == tuple(one.digest for one in image.layers) == (sha256(ONE), sha256(TWO))
    assert {one.media_type for one in image.layers} == {LAYER}
    assert content.open(sha256(ONE)).read() == ONE
    assert image.created == "2024-01-01T00:00:00Z"
    assert name_of(path) == "docker.io/library/x:1"
    assert os.listdir(Path(content.folder) / "tmp") == []
    assert fetch(path, content) == image


def test_the_same_image_in_both_layouts_is_the_same(content: BlobStore, tmp_path: Path) -> None:
    for layout in (legacy, current):
        (tmp_path / layout.__name__).write_bytes(tar(*layout()))
    assert fetch(tmp_path / "legacy", content) == fetch(tmp_path / "current", content)


@pytest.mark.parametrize("kind", ["symlink", "link"])
def test_a_layer_may_be_a_link_to_another(kind: str, content: BlobStore, tmp_path: Path) -> None:
    target = "../11/layer.tar" if kind == "symlink" else "11/layer.tar"
    (tmp_path / "saved.tar").write_bytes(
        tar(
            entry("22/layer.tar", kind=kind, target=target),
            entry("./11/layer.tar", ONE),
            entry("config.json", config(ONE, ONE)),
            saved(image_of(["11/layer.tar", "22/layer.tar"])),
        )
    )
    assert fetch(tmp_path / "saved.tar", content).diff_ids == (sha256(ONE), sha256(ONE))


def test_one_of_several_images_is_named(content: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(
        tar(
            entry("1.tar", ONE),
            entry("2.tar", TWO),
            entry("1.json", config(ONE)),
            entry("2.json", config(TWO)),
            saved(
                image_of(["1.tar"], ["a:1", "example.io/b:2"], "1.json"),
                image_of(["2.tar"], None, "2.json"),
            ),
        )
    )
    assert fetch(path, content, ":a:1").diff_ids == (sha256(ONE),)
    assert fetch(path, content, ":example.io/b:2").diff_ids == (sha256(ONE),)
    assert fetch(path, content, ":@1").diff_ids == (sha256(TWO),)
    assert name_of(path, ":example.io/b:2") == "example.io/b:2"
    assert name_of(path, ":@0") == "docker.io/library/a:1"
    assert name_of(path, ":@1") == f"docker-archive:{path}:@1"
    for which, reason in {
        "": "say which image: the archive has a:1, @1",
        ":a": "no image a:latest: the archive has a:1, @1",
        ":@2": "no image @2: the archive has a:1, @1",
    }.items():
        with pytest.raises(ImageError, match=reason):
            fetch(path, content, which)


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_layers_in_a_compression_that_registries_do_not_know_become_plain(
    compress: Callable[[bytes], bytes], content: BlobStore, tmp_path: Path
) -> None:
    (tmp_path / "saved.tar").write_bytes(
        tar(
            entry("1.tar", compress(ONE)),
            entry("config.json", config(ONE)),
            saved(image_of(["1.tar"])),
        )
    )
    image = fetch(tmp_path / "saved.tar", content)
    assert [(one.media_type, one.digest) for one in image.layers] == [(LAYER, sha256(ONE))]
    assert content.open(sha256(ONE)).read() == ONE


SPARSE = ["--format=gnu"], ["--format=posix"], ["--format=posix", "--sparse-version=0.1"]


@pytest.mark.parametrize("options", SPARSE)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_files_in_the_archive_may_be_sparse(
    options: list[str], compress: Callable[[bytes], bytes], content: BlobStore, tmp_path: Path
) -> None:
    plain = tar(entry("zeros", bytes(1 << 20)), entry("end", b"end"), entry("more", bytes(300_000)))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_bytes(config(plain))
    (folder / "manifest.json").write_text(json.dumps([image_of(["./1.tar"])]))
    with open(folder / "1.tar", "wb") as file:
        for start in range(0, len(plain), 4096):
            if any(piece := plain[start : start + 4096]):
                file.seek(start)
                file.write(piece)
        file.truncate(len(plain))
    command = ["tar", "-S", *options, "-C", str(folder), "-c", "."]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(data) < 1 << 20
    (tmp_path / "saved.tar").write_bytes(compress(data))

    image = fetch(tmp_path / "saved.tar", content)

    assert content.open(image.layers[0].digest).read() == plain


def packed(layout: Layout) -> bytes:
    command = ["tar", "-C", str(layout.folder), "-c", "."]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_layout_in_a_tar_is_read_by_either_name(
    compress: Callable[[bytes], bytes], content: BlobStore, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    layout.index(layout.image(TWO), **{"example.io/a/b:1": layout.image(ONE)})
    path = tmp_path / "saved.tar"
    path.write_bytes(compress(packed(layout)))
    for text, name in {
        f"oci-archive:{path}:example.io/a/b:1": f"oci-archive:{path}:example.io/a/b:1",
        f"oci-archive:{path}:@1": f"oci-archive:{path}:@1",
        f"docker-archive:{path}:@1": "example.io/a/b:1",
        f"docker-archive:{path}:example.io/a/b:1": "example.io/a/b:1",
    }.items():
        image, names = open_source(text).fetch(content, None, None)  # type: ignore[union-attr]
        assert (image.diff_ids, names) == ((sha256(ONE),), (name,))
    with pytest.raises(ImageError, match=r"saved\.tar: the archive has several images"):
        fetch(path, content)
    with pytest.raises(ImageError, match=r"has no image x; there are: example\.io/a/b:1$"):
        open_source(f"oci-archive:{path}:x").fetch(content, None, None)  # type: ignore[union-attr]
    assert os.listdir(Path(content.folder) / "tmp") == []


def test_what_docker_save_wrote_is_read_as_an_archive_of_a_layout(
    content: BlobStore, tmp_path: Path
) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(tar(*legacy()))
    for text in (f"oci-archive:{path}", f"oci-archive:{path}:x:1"):
        image, names = open_source(text).fetch(content, None, None)  # type: ignore[union-attr]
        assert (image.id, names) == (sha256(CONFIG), (text,))


def oldest(*layers: tuple[str, str, bytes]) -> list[Entry]:
    """As Docker wrote it before 1.10: each layer's id, its parent's, and its tar."""
    entries = []
    for own, parent, plain in layers:
        told = {"id": own, "config": {"Env": [own]}, "os": "linux", "architecture": "amd64"}
        told |= {"parent": parent} if parent else {}
        entries += [
            entry(f"{own}/json", json.dumps(told).encode()),
            entry(f"{own}/layer.tar", plain),
        ]
    repositories = {"x": {"1": layers[0][0]}, "example.io/y": {"2": layers[-1][0]}}
    return [*entries, entry("repositories", json.dumps(repositories).encode())]


def test_what_docker_saved_before_there_was_a_manifest_is_read(
    content: BlobStore, tmp_path: Path
) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(tar(*oldest(("22", "11", TWO), ("11", "", ONE))))
    image = fetch(path, content, ":x:1")
    assert image.diff_ids == (sha256(ONE), sha256(TWO))
    assert json.load(content.open(image.id)) == {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["22"]},
        "rootfs": {"type": "layers", "diff_ids": list(image.diff_ids)},
    }
    assert fetch(path, content, ":example.io/y:2").diff_ids == (sha256(ONE),)
    path.write_bytes(tar(*oldest(("22", "22", ONE))))
    with pytest.raises(ImageError, match="has 501 layers"):
        fetch(path, content, ":x:1")


def test_an_archive_without_an_architecture_is_for_what_was_asked(
    content: BlobStore, tmp_path: Path
) -> None:
    path = tmp_path / "saved.tar"
    silent = config(ONE, architecture="")
    path.write_bytes(
        tar(entry("1.tar", ONE), entry("config.json", silent), saved(image_of(["1.tar"])))
    )
    assert fetch(path, content).platform == Platform.of_machine()
    assert str(fetch(path, content, platform="linux/s390x").platform) == "linux/s390x"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for what Podman wants to have fewer than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("program", ["podman save", "buildah push", "skopeo copy"])
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
@pytest.mark.root
def test_what_other_programs_write_is_read(
    program: str, kind: str, content: BlobStore, tmp_path: Path, short_path: Path
) -> None:
    tool, verb = program.split()
    require_root()
    require(tool)
    layout = Layout(tmp_path / "layout")
    layout.index(x=layout.image(ONE, TWO))
    path, name = tmp_path / "saved.tar", "localhost/x:1"
    storage = [f"--root={tmp_path}/root", f"--runroot={short_path}", "--storage-driver=vfs"]
    source = f"oci:{layout.folder}:x"
    if tool == "skopeo":
        commands = [["skopeo", "copy", source, f"{kind}:{path}:{name}"]]
    else:
        save = ["save", f"--format={kind}", "-o", path, name]
        push = ["push", name, f"{kind}:{path}:{name}"]
        pulled = subprocess.run(
            [tool, *storage, "pull", "-q", source], check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        commands = [
            [tool, *storage, "tag", pulled, name],
            [tool, *storage, *(save if verb == "save" else push)],
        ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)

    saved = open_source(f"{kind}:{path}")
    image, names = saved.fetch(content, None, None)  # type: ignore[union-attr]

    assert image.diff_ids == (sha256(ONE), sha256(TWO))
    assert names == ((name,) if kind == "docker-archive" else (f"{kind}:{path}",))


def test_compressed_layers_stay_compressed(content: BlobStore, tmp_path: Path) -> None:
    blobs = gzip.compress(ONE), zstd(TWO)
    name = f"blobs/{sha256(blobs[0]).replace(':', '/')}"
    (tmp_path / "saved.tar").write_bytes(
        tar(
            entry(name, blobs[0]),
            entry("two.tar.zst", blobs[1]),
            entry("config.json", config(ONE, TWO)),
            saved(image_of([name, "two.tar.zst"])),
        )
    )
    image = fetch(tmp_path / "saved.tar", content)
    assert [one.digest for one in image.layers] == [sha256(blob) for blob in blobs]
    assert [one.media_type for one in image.layers] == [f"{LAYER}+gzip", f"{LAYER}+zstd"]


def test_what_skopeo_writes_is_read(content: BlobStore, tmp_path: Path) -> None:
    require_root()
    require("umoci", "skopeo")
    path, place = tmp_path / "saved.tar", tmp_path / "layout"
    commands: list[list[str | Path]] = [
        ["umoci", "init", "--layout", place],
        ["umoci", "new", "--image", f"{place}:x"],
        ["umoci", "unpack", "--rootless", "--image", f"{place}:x", tmp_path / "bundle"],
        ["umoci", "insert", "--rootless", "--image", f"{place}:x", __file__, "/test.py"],
        ["skopeo", "copy", f"oci:{place}:x", f"docker-archive:{path}:example.io/a/b:1"],
    ]
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)

    image = fetch(path, content)
    assert name_of(path) == "example.io/a/b:1"
    assert b"what_skopeo_writes" in content.open(image.layers[0].digest).read()

    content.tag("y", image.manifest)
    unpack = ["umoci", "unpack", "--rootless", "--image", f"{content.folder}:y"]
    subprocess.run([*unpack, tmp_path / "out"], check=True, capture_output=True)
    assert (tmp_path / "out/rootfs/test.py").read_bytes() == Path(__file__).read_bytes()


def test_a_platform_that_was_asked_for_has_to_fit(content: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "saved.tar").write_bytes(tar(*legacy()))
    assert fetch(tmp_path / "saved.tar", content, platform="linux/amd64").id == sha256(CONFIG)
    with pytest.raises(ImageError, match="no image for linux/arm64, only for linux/amd64"):
        fetch(tmp_path / "saved.tar", content, platform="linux/arm64")


GOOD = image_of(["1.tar"])
WRONG: dict[str, Sequence[Entry]] = {
    "no file manifest.json": [entry("x")],
    "manifest.json is not JSON": [entry("manifest.json", b"{")],
    "not a list": [entry("manifest.json", b"{}")],
    "an image that is not an object": [entry("manifest.json", b"[1]")],
    "the archive has no images": [saved()],
    "no 'Config'": [saved({})],
    "no file config.json": [saved(GOOD)],
    "no file \ufffd.json": [saved(image_of([], config="\ud83d.json"))],
    "has 501 layers": [
        saved(image_of(["1.tar"] * 501)), entry("config.json", config(ONE)), entry("1.tar", ONE)
    ],
    "say which image: the archive has a0:1, a1:1,": [
        saved(*(image_of([], [f"a{number}:1"]) for number in range(10_000)))
    ],
    "the image has 2,000 names": [saved(image_of([], [f"a:{number}" for number in range(2000)]))],
    "1.tar would have 9,000,000,000 bytes, most of them holes": [
        saved(GOOD),
        entry("config.json", config(ONE)),
        entry("1.tar", pax={"GNU.sparse.size": "9000000000"}),
    ],
    "config.json is not JSON": [saved(GOOD), entry("config.json", b"nonsense")],
    "no 'rootfs'": [saved(GOOD), entry("config.json", b"{}")],
    "1 layers, but its config has 2": [saved(GOOD), entry("config.json", config(ONE, TWO))],
    "no file 1.tar": [saved(GOOD), entry("config.json", config(ONE))],
    "another content": [saved(GOOD), entry("config.json", config(ONE)), entry("1.tar", TWO)],
    "is not an image reference": [saved(image_of(["1.tar"], ["../../x"]))],
    "no file ../../../etc/passwd": [saved(image_of([], config="../../../etc/passwd"))],
    "no file config.json ": [
        saved(GOOD), entry("config.json", kind="symlink", target="/etc/passwd")
    ],
    "no file config.json  ": [
        saved(GOOD),
        entry("config.json", kind="symlink", target="other.json"),
        entry("other.json", kind="symlink", target="config.json"),
    ],
    "is not a sha256 or sha512 digest": [
        saved(image_of(["./blobs/sha256/x"])),
        entry("config.json", config(ONE)),
        entry("blobs/sha256/x", gzip.compress(ONE)),
    ],
    "more than 8388608 bytes": [saved(GOOD), entry("config.json", bytes((8 << 20) + 1))],
}  # fmt: skip


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_wrong_is_said(reason: str, content: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(tar(*WRONG[reason]))
    with pytest.raises(ImageError) as caught:
        fetch(path, content)
    assert reason.strip() in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 200
    assert [digest for digest in content.digests() if digest == sha256(TWO)] == []
    assert os.listdir(Path(content.folder) / "tmp") == []


@given(cut=st.integers(0, 20_000), flips=st.lists(st.integers(0, 10_000), max_size=4))
def test_a_damaged_archive_is_an_image_or_an_image_error(
    cut: int, flips: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    small = layer("small")
    data = bytearray(
        tar(
            entry("1.tar", small),
            entry("l.tar", kind="symlink", target="1.tar"),
            entry("config.json", config(small)),
            saved(image_of(["l.tar"])),
        )
    )
    for flip in flips:
        data[flip % len(data)] ^= 1 << flip % 8
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "saved.tar").write_bytes(data[: cut or len(data)])
    content = BlobStore(folder / "content")
    try:
        message = repr(fetch(folder / "saved.tar", content))
    except ImageError as error:
        message = str(error)
    assert message.isprintable()
    for digest in content.digests():
        assert sha256(content.open(digest).read()) == digest


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_a_truncated_compressed_archive_is_an_image_error(
    compress: Callable[[bytes], bytes], content: BlobStore, tmp_path: Path
) -> None:
    data = compress(tar(*legacy()))
    (tmp_path / "saved.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="ends too early"):
        fetch(tmp_path / "saved.tar", content)
    with pytest.raises(ImageError, match="ends too early"):
        name_of(tmp_path / "saved.tar")
    assert os.listdir(Path(content.folder) / "tmp") == []


def test_a_huge_layer_is_neither_read_to_find_others_nor_kept_in_memory(
    content: BlobStore, tmp_path: Path
) -> None:
    # 1 TiB of hole: reading it would take an hour.
    path = tmp_path / "saved.tar"
    info, _ = entry("big.tar")
    info.size = 1 << 40
    with open(path, "wb") as file:
        file.write(info.tobuf())
        file.seek(info.size, os.SEEK_CUR)
        file.write(tar(*legacy()))
    assert fetch(path, content).id == sha256(CONFIG)


def test_an_archive_of_too_many_members_is_refused(content: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "saved.tar").write_bytes(tar(entry("x"))[:512] * 100_001)
    with pytest.raises(ImageError, match="more than 100000 members"):
        fetch(tmp_path / "saved.tar", content)


@pytest.mark.parametrize("what", ["nothing", "folder", "fifo"])
def test_what_is_no_file_is_an_error(what: str, content: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    with pytest.raises((ImageError, OperationError), match=r"saved\.tar"):
        fetch(path, content)


@pytest.mark.root
def test_a_full_disk_is_one_clear_error_and_nothing_is_left(tmp_path: Path) -> None:
    big = layer("big", os.urandom(5_000_000))
    archive = tar(
        entry("1.tar", big), entry("config.json", config(big)), saved(image_of(["1.tar"]))
    )
    with mounted("tmpfs", tmp_path / "small", 4 << 20) as place:
        for compress in (bytes, gzip.compress):
            content = BlobStore(place / "content")
            (tmp_path / "saved.tar").write_bytes(compress(archive))
            with pytest.raises(OperationError, match="No space left on device"):
                fetch(tmp_path / "saved.tar", content)
            assert list(content.digests()) == []
            assert os.listdir(place / "content/tmp") == []
