"""Images go out to layouts and archives, and come in again as the same."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reflayer import ConfigChanges, ReflayerError, Store
from tests.images.layouts import Layout
from tests.store.stores import BASE, MORE, assert_clean, image, names_in
from tests.trees import assert_same, facts

_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture
def store(base: Path, root: Path) -> Store:
    """A store with the container ``web``, and the image ``new`` that was made of it."""
    store = Store(root)
    container = store.create(image(base / "image", BASE, MORE), name="web")
    (Path(container.path) / "etc/passwd").write_bytes(b"changed")
    os.link(f"{container.path}/bin/sh", f"{container.path}/sh")
    store.commit("web", "new", changes=ConfigChanges(cmd=["sh"]))
    return store


def tree(store: Store, name: str) -> Any:
    return facts(Path(store.create(name).path), atime=False)


def listed(layout: Path) -> list[Any]:
    """What a layout's index lists."""
    manifests = json.loads((layout / "index.json").read_text())["manifests"]
    assert isinstance(manifests, list)
    return manifests


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    data: bytes = (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
    assert len(data) == descriptor["size"]
    assert "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"]
    return data


def manifest(layout: Path, tag: str) -> Any:
    (one,) = (
        one
        for one in listed(layout)
        if one.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag
    )
    return json.loads(blob(layout, one))


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
def test_what_was_saved_comes_into_another_store_as_the_same(
    base: Path, store: Store, kind: str
) -> None:
    place = f"{kind}:{base}/out:new"
    store.save("new", place)
    other = Store(base / "other")
    assert_same(tree(store, "new"), tree(other, place))
    assert {one.id for one in other.images()} < {one.id for one in store.images()}
    assert_clean(base / "store")


def test_a_layout_holds_the_bytes_that_came(base: Path, store: Store, root: Path) -> None:
    store.save("new", f"oci:{base}/out:new")
    layers = manifest(base / "out", "new")["layers"]
    assert len(layers) == 3
    for layer in layers:
        data = blob(base / "out", layer)
        assert (root / "content/blobs" / layer["digest"].replace(":", "/")).read_bytes() == data
    assert names_in(base / "out") == {"blobs", "index.json", "oci-layout"}


def test_other_images_of_a_layout_stay(base: Path, store: Store) -> None:
    store.save(f"oci:{base}/image:latest", f"oci:{base}/out:old")
    before = listed(base / "out")
    store.save("new", f"oci:{base}/out:new")
    assert listed(base / "out")[: len(before)] == before
    store.save("new", f"oci:{base}/out:old")
    assert manifest(base / "out", "old") == manifest(base / "out", "new")


def test_without_a_tag_an_image_is_listed_once(base: Path, store: Store) -> None:
    for _ in range(2):
        store.save("new", f"oci:{base}/out")
    assert len(listed(base / "out")) == 1
    assert_same(tree(store, "new"), tree(Store(base / "other"), f"oci:{base}/out"))


def test_many_writers_of_one_layout_lose_nothing(base: Path, store: Store) -> None:
    failed: list[BaseException] = []

    def save(number: int) -> None:
        try:
            store.save("new", f"oci:{base}/out:tag-{number}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(listed(base / "out")) == 8
    assert names_in(base / "out") == {"blobs", "index.json", "oci-layout"}


@pytest.mark.parametrize(("compression", "kind"), [(None, _GZIP), ("zstd", _ZSTD)])
def test_plain_layers_are_compressed_in_a_layout(
    base: Path, root: Path, compression: str | None, kind: str
) -> None:
    (base / "image.tar").write_bytes(BASE)
    store = Store(root)
    store.create(f"tar:{base}/image.tar")
    store.save(f"tar:{base}/image.tar", f"oci:{base}/out:x", compression=compression)
    (layer,) = manifest(base / "out", "x")["layers"]
    assert layer["mediaType"] == kind
    data = blob(base / "out", layer)
    if compression is None:
        assert gzip.decompress(data) == BASE
        assert data[4:8] == bytes(4)  # no time in it
    store.save(f"tar:{base}/image.tar", f"oci:{base}/again:x", compression=compression)
    assert manifest(base / "again", "x") == manifest(base / "out", "x")
    assert_clean(root)


def test_dockers_media_types_become_ocis(base: Path, root: Path) -> None:
    """Of the same layers, and of the same image."""
    layout = Layout(base / "image")
    layout.index(x=layout.image(BASE, MORE, docker=True))
    store = Store(root)
    store.create(f"oci:{base}/image:x")
    store.save(f"oci:{base}/image:x", f"oci:{base}/out:x")
    before, after = manifest(base / "image", "x"), manifest(base / "out", "x")
    assert [layer["digest"] for layer in after["layers"]] == [
        layer["digest"] for layer in before["layers"]
    ]
    assert {layer["mediaType"] for layer in after["layers"]} == {_GZIP}
    assert after["config"]["digest"] == before["config"]["digest"]
    assert after["mediaType"] == "application/vnd.oci.image.manifest.v1+json"


def test_an_archive_is_what_docker_save_writes(base: Path, store: Store) -> None:
    store.save("new", f"docker-archive:{base}/out.tar")
    with tarfile.open(base / "out.tar") as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (saved,) = json.loads(read("manifest.json"))
        assert saved["RepoTags"] == ["new:latest"]
        told = json.loads(read(saved["Config"]))
        plain = [read(name) for name in saved["Layers"]]
    assert told["rootfs"]["diff_ids"] == [
        "sha256:" + hashlib.sha256(data).hexdigest() for data in plain
    ]
    assert plain[:2] == [BASE, MORE]


def test_the_same_image_is_the_same_archive(base: Path, store: Store) -> None:
    for name in ("one", "two"):
        store.save("new", f"docker-archive:{base}/{name}.tar")
    assert (base / "one.tar").read_bytes() == (base / "two.tar").read_bytes()


def test_a_layer_of_any_size_keeps_its_place_in_an_archive() -> None:
    """Its header is written before its size is known."""
    from reflayer.images.docker_archive import _header

    sizes = (0, 1, 10**6, 8 << 30, 1 << 50)
    assert len({len(_header("blobs/sha256/" + "0" * 64, size)) for size in sizes}) == 1


@pytest.mark.parametrize(
    ("image_name", "destination", "tags"),
    [
        ("new", "out.tar:other:1", ["other:1"]),
        ("new", "out.tar:host.example/a/b", ["host.example/a/b:latest"]),
        ("id", "out.tar", None),
    ],
)
def test_an_archive_names_the_image(
    base: Path, store: Store, image_name: str, destination: str, tags: list[str] | None
) -> None:
    if image_name == "id":
        image_name = next(one.id for one in store.images() if "new" in one.names[0])
    store.save(image_name, f"docker-archive:{base}/{destination}")
    with tarfile.open(base / "out.tar") as archive:
        file = archive.extractfile("manifest.json")
        assert file is not None
        assert json.loads(file.read())[0]["RepoTags"] == tags


def test_a_folder_that_was_taken_in_goes_out_the_same_each_time(base: Path, root: Path) -> None:
    (base / "tree").mkdir()
    (base / "tree/file").write_bytes(b"x" * 5000)
    time.sleep(2.1)  # what has changed just before is taken in anew
    store = Store(root)
    name = f"rootfs:{base}/tree"
    store.create(name)
    store.save(name, f"oci:{base}/out:one")
    config = store.image_config(name)
    store.create(name)
    store.save(name, f"oci:{base}/out:two", compression="zstd")
    assert store.image_config(name) == config
    assert manifest(base / "out", "one") == manifest(base / "out", "two")
    assert_same(tree(store, name), tree(Store(base / "other"), f"oci:{base}/out:one"))
    assert_clean(root)


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        ("oci:{}/full:x", "not empty"),
        ("oci:{}/file:x", "Not a directory"),
        ("docker-archive:{}/full", "no regular file"),
        ("docker-archive:{}/nowhere/file", "No such file"),
        ("docker-archive:{}/file:@1", "not by its place"),
        ("tar:{}/file", "saved to oci:"),
        ("rootfs:{}/x", "saved to oci:"),
        ("registry.example/x", "saved to oci:"),
    ],
)
def test_a_place_that_is_none_is_one_clear_error(
    base: Path, store: Store, root: Path, destination: str, reason: str
) -> None:
    (base / "full").mkdir()
    (base / "full/thing").touch()
    (base / "file").touch()
    with pytest.raises(ReflayerError, match=reason):
        store.save("new", destination.format(base))
    assert names_in(base / "full") == {"thing"}
    assert names_in(base) == {"full", "file", "image", "store"}
    assert_clean(root)


def test_a_damaged_blob_goes_nowhere(base: Path, store: Store, root: Path) -> None:
    layer = manifest(root / "content", "docker.io/library/new:latest")["layers"][-1]
    path = root / "content/blobs" / layer["digest"].replace(":", "/")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data[len(data) // 2 :]))  # one bit may mean nothing
    path.write_bytes(data)
    for kind in ("oci", "docker-archive"):
        with pytest.raises(ReflayerError, match=layer["digest"]):
            store.save("new", f"{kind}:{base}/out-{kind}:new")
    assert listed(base / "out-oci") == []
    assert not (base / "out-docker-archive").exists()


def test_an_image_that_is_not_there_is_named(base: Path, store: Store) -> None:
    with pytest.raises(ReflayerError, match="other: no such image"):
        store.save("other", f"oci:{base}/out:x")
    assert not (base / "out").exists()
