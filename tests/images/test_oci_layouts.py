"""``oci:``: layouts as umoci and skopeo make them, and what may be wrong with one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from reflayer.errors import ImageError, OperationError
from reflayer.images.content.blob_store import BlobStore
from reflayer.images.content.resolve import find_image
from reflayer.images.content.transfer import add_blobs
from reflayer.images.model.descriptor import Descriptor
from reflayer.images.model.image import Image
from reflayer.images.model.platform import Platform
from reflayer.images.transports import open_source
from tests.file_systems import mounted, require
from tests.images.layouts import LAYER, MANIFEST, Layout, config, layer, sha256, tagged

ONE, TWO = layer("one"), layer("two")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


@pytest.fixture
def content(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "content")


def fetch(text: str, content: BlobStore) -> Image:
    return open_source(text).fetch(content, None, None)[0]  # type: ignore[union-attr]


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made_by_umoci(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout whose image ``x`` has two layers."""
    require("umoci", "skopeo")
    folder = tmp_path_factory.mktemp("umoci")
    place = folder / "layout"
    run("umoci", "init", "--layout", place)
    run("umoci", "new", "--image", f"{place}:x")
    run("umoci", "unpack", "--rootless", "--image", f"{place}:x", folder / "bundle")
    for name in ("one", "two"):
        (folder / "bundle/rootfs" / name).write_text(name)
        run("umoci", "repack", "--refresh-bundle", "--image", f"{place}:x", folder / "bundle")
    run("umoci", "config", "--image", f"{place}:x", "--created", "2020-01-02T03:04:05Z")
    return place


def test_an_image_made_by_umoci_is_read(made_by_umoci: Path, content: BlobStore) -> None:
    image = fetch(f"oci:{made_by_umoci}:x", content)

    shown = subprocess.run(
        ["skopeo", "inspect", f"oci:{made_by_umoci}:x"], check=True, capture_output=True
    )
    told = json.loads(shown.stdout)
    assert image.manifest.digest == told["Digest"]
    assert [one.digest for one in image.layers] == told["Layers"]
    assert image.platform == Platform(told["Os"], told["Architecture"])
    assert image.created == "2020-01-02T03:04:05Z"
    assert len(image.diff_ids) == 2
    assert find_image(image.manifest, None, content.open) == image


def test_an_image_copied_by_skopeo_is_read(
    made_by_umoci: Path, content: BlobStore, tmp_path: Path
) -> None:
    name = "example.io/a/b:1.2"
    run("skopeo", "copy", f"oci:{made_by_umoci}:x", f"oci:{tmp_path}/copy:{name}")
    image = fetch(f"oci:{tmp_path}/copy:{name}", content)
    assert image == fetch(f"oci:{made_by_umoci}:x", content)


def test_an_image_that_is_there_is_not_read_again(layout: Layout, content: BlobStore) -> None:
    top = layout.image(ONE, TWO)
    layout.index(top)
    image = fetch(f"oci:{layout.folder}", content)
    for blob in (layout.folder / "blobs/sha256").iterdir():
        blob.unlink()
    assert fetch(f"oci:{layout.folder}", content) == image


def test_the_tag_says_which(layout: Layout, content: BlobStore) -> None:
    layout.index(a=layout.image(ONE), b=layout.image(TWO))
    assert fetch(f"oci:{layout.folder}:b", content).diff_ids == (sha256(TWO),)
    with pytest.raises(ImageError, match="several images, say which: a, b"):
        fetch(f"oci:{layout.folder}", content)
    with pytest.raises(ImageError, match="no image c; there are: a, b"):
        fetch(f"oci:{layout.folder}:c", content)


def test_the_only_image_needs_no_tag(layout: Layout, content: BlobStore) -> None:
    top = layout.image(ONE)
    layout.index(tagged(top, "a"), tagged(top, "b"))
    assert fetch(f"oci:{layout.folder}", content).diff_ids == (sha256(ONE),)


def test_a_layout_may_lack_the_file_that_says_so(layout: Layout, content: BlobStore) -> None:
    layout.index(layout.image(ONE))
    (layout.folder / "oci-layout").unlink()
    assert fetch(f"oci:{layout.folder}", content).diff_ids == (sha256(ONE),)


@pytest.mark.parametrize("named", [{}, {"org.opencontainers.image.ref.name": "x"}])
def test_of_images_that_are_called_alike_that_for_the_platform_is_taken(
    named: dict[str, str], layout: Layout, content: BlobStore
) -> None:
    here, there = Platform.of_machine(), Platform("linux", "z80")
    images = [
        {**layout.image(plain, architecture=one.architecture), "annotations": named}
        for plain, one in ((ONE, there), (TWO, here))
    ]
    layout.index(*images, layout.signature(config="{}"))
    name = f"oci:{layout.folder}" + (":x" if named else "")
    for platform, plain in ((None, TWO), (here, TWO), (there, ONE)):
        source = open_source(name)
        image, names = source.fetch(content, platform, None)  # type: ignore[union-attr]
        assert (image.diff_ids, names) == ((sha256(plain),), (name,))

    layout.index(*images, {**layout.image(ONE, ONE), "annotations": named})
    with pytest.raises(ImageError, match=r"several images .*say which by its place, @0 to @2"):
        fetch(name, content)
    assert fetch(f"oci:{layout.folder}:@2", content).diff_ids == (sha256(ONE),) * 2


def test_the_only_image_beside_signatures_needs_no_tag(layout: Layout, content: BlobStore) -> None:
    layout.index(a=layout.image(ONE), b=layout.signature(config="{}"))
    assert fetch(f"oci:{layout.folder}", content).diff_ids == (sha256(ONE),)
    with pytest.raises(ImageError, match=r"of an artefact: application/vnd\.example\.signature$"):
        fetch(f"oci:{layout.folder}:b", content)


def test_an_image_may_be_asked_for_by_the_name_that_containerd_gives_it(
    layout: Layout, content: BlobStore
) -> None:
    named = {
        "io.containerd.image.name": "docker.io/library/x:1",
        "org.opencontainers.image.ref.name": "1",
    }
    layout.index(layout.image(TWO), {**layout.image(ONE), "annotations": named})
    for which in ("1", "x:1", "docker.io/library/x:1"):
        assert fetch(f"oci:{layout.folder}:{which}", content).diff_ids == (sha256(ONE),)


def test_of_ten_thousand_tags_a_few_are_listed(layout: Layout, content: BlobStore) -> None:
    one, two = layout.image(ONE), layout.image(TWO)
    layout.index(one, **{f"t{number}": two for number in range(10_000)})
    with pytest.raises(ImageError, match=r"say which: t0, t1, .* and 9,990 more$") as caught:
        fetch(f"oci:{layout.folder}", content)
    assert len(str(caught.value)) < 300


def test_an_empty_layout_says_so(layout: Layout, content: BlobStore) -> None:
    with pytest.raises(ImageError, match="no image; there are: no tags"):
        fetch(f"oci:{layout.folder}", content)


def test_a_tag_that_is_two_images_is_refused(layout: Layout, content: BlobStore) -> None:
    layout.index(tagged(layout.image(ONE), "a"), tagged(layout.image(TWO), "a"))
    with pytest.raises(ImageError, match="several images a"):
        fetch(f"oci:{layout.folder}:a", content)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("index.json", None, "it has no index.json"),
        ("oci-layout", "{", "is not JSON"),
        ("oci-layout", "{}", "version ''"),
        ("index.json", "[]", "is not a JSON object"),
        ("index.json", '{"manifests": [{"digest": "sha256:../x"}]}', "digest"),
        ("index.json", " " * ((64 << 20) + 1), "has more than"),
    ],
)
def test_what_is_no_layout_is_refused(
    name: str, text: str | None, reason: str, layout: Layout, content: BlobStore
) -> None:
    (layout.folder / name).unlink()
    if text is not None:
        (layout.folder / name).write_text(text)
    with pytest.raises(ImageError, match=reason):
        fetch(f"oci:{layout.folder}", content)


def test_a_folder_that_is_not_there_is_named(content: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere is not an OCI image layout"):
        fetch(f"oci:{tmp_path}/nowhere:x", content)
    (tmp_path / "root/etc").mkdir(parents=True)
    with pytest.raises(ImageError, match=f"rootfs:{tmp_path}/root takes a folder as it is"):
        fetch(f"oci:{tmp_path}/root", content)


def test_a_file_is_told_from_a_folder(content: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "saved.tar").touch()
    with pytest.raises(ImageError, match=r"saved\.tar is no folder: oci-archive:"):
        fetch(f"oci:{tmp_path}/saved.tar", content)


def test_a_fifo_in_a_blobs_place_is_not_waited_for(layout: Layout, content: BlobStore) -> None:
    top = layout.image(ONE)
    layout.index(top)
    layout.path(top).unlink()
    os.mkfifo(layout.path(top))
    with pytest.raises(ImageError, match="not a regular file"):
        fetch(f"oci:{layout.folder}", content)


def test_progress_counts_what_is_missing(layout: Layout, content: BlobStore) -> None:
    layers = [layer(f"layer {n}", os.urandom(1_500_000)) for n in range(6)]
    layout.index(layout.image(*layers))
    told: list[tuple[str, int, int | None]] = []
    source = open_source(f"oci:{layout.folder}")
    image, _ = source.fetch(content, None, lambda *values: told.append(values))  # type: ignore[union-attr]
    total = image.config.size + sum(one.size for one in image.layers)
    assert {(stage, of) for stage, _, of in told} == {("fetch", total)}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == total


def test_a_bad_layer_among_many_leaves_no_image_and_no_thread(
    layout: Layout, content: BlobStore
) -> None:
    plain = [layer(f"layer {n}", bytes(100_000)) for n in range(12)]
    blobs = [layout.blob(data, LAYER) for data in plain]
    layout.path(blobs[7]).write_bytes(bytes(len(plain[7])))
    value = {
        "schemaVersion": 2,
        "config": layout.blob(config(*plain), "application/vnd.oci.image.config.v1+json"),
        "layers": blobs,
    }
    top = layout.document(value, MANIFEST)
    layout.index(top)
    with pytest.raises(ImageError, match=f"{blobs[7]['digest']} has another content"):
        fetch(f"oci:{layout.folder}", content)
    assert not content.has(str(top["digest"]))
    assert os.listdir(Path(content.folder) / "tmp") == []


@pytest.mark.root
def test_a_full_disk_is_one_clear_error_and_the_next_try_goes_on(
    layout: Layout, tmp_path: Path
) -> None:
    layout.index(layout.image(*(layer(f"{n}", os.urandom(1_000_000)) for n in range(6))))
    with mounted("tmpfs", tmp_path / "small", 4 << 20) as place:
        content = BlobStore(place / "content")
        with pytest.raises(OperationError, match="No space left on device"):
            fetch(f"oci:{layout.folder}", content)
        assert os.listdir(place / "content/tmp") == []
        subprocess.run(["mount", "-o", "remount,size=16M", str(place)], check=True)
        assert len(fetch(f"oci:{layout.folder}", content).layers) == 6


def test_once_a_layer_is_bad_the_others_are_not_read_to_their_end(tmp_path: Path) -> None:
    digests = [sha256(b"bad"), sha256(b"endless")]
    go_on = threading.Event()

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            go_on.set()
            return len(buffer)

    class Bad(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert go_on.wait(60)
            return super().read(size)

    def open_blob(digest: str) -> BinaryIO:
        return Bad(b"other") if digest == digests[0] else Endless()  # type: ignore[return-value]

    layers = Descriptor(LAYER, digests[0], 5), Descriptor(LAYER, digests[1], 1 << 40)
    content = BlobStore(tmp_path / "content")
    with pytest.raises(ImageError, match=f"{digests[0]} has another content"):
        add_blobs(content, open_blob, layers, None)
    assert list(content.digests()) == []
    assert os.listdir(Path(content.folder) / "tmp") == []
