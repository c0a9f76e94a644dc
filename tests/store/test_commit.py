"""Containers become images: their layers, their configs, and what creating from them gives."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from reflayer import ConfigChanges, ReflayerError, Store
from tests.archive.tars import entry, tar, without_fast_libraries
from tests.images.layouts import CONFIG, LAYER, MANIFEST, Layout
from tests.images.layouts import config as config_of
from tests.store.stores import BASE, MORE, assert_clean, image, layers_in
from tests.trees import assert_same, facts

_EMPTY = "sha256:" + hashlib.sha256(bytes(1024)).hexdigest()


@pytest.fixture
def made(base: Path) -> str:
    """An image of two layers."""
    return image(base / "image", BASE, MORE)


@pytest.fixture
def store(root: Path, made: str) -> Store:
    """A store with the container ``web`` of it."""
    store = Store(root)
    store.create(made, name="web")
    return store


def test_half_a_character_in_the_image_is_no_end(base: Path, root: Path) -> None:
    layout = Layout(base / "half")
    data = config_of(BASE, config={"Labels": {"a": "?", "b": "c"}}).replace(b"?", rb"\ud83d")
    value = {"config": layout.blob(data, CONFIG), "layers": [layout.blob(BASE, LAYER)]}
    layout.index(layout.document(value, MANIFEST))
    store = Store(root)
    store.create(f"oci:{layout.folder}", name="web")
    store.commit("web", "new")
    assert config(store, root)["config"]["Labels"] == {"a": "\ufffd", "b": "c"}


def test_layers_of_any_compression_go_out_as_every_program_reads_them(
    base: Path, root: Path
) -> None:
    layout = Layout(base / "odd")
    blobs = [layout.blob(lzma.compress(BASE), f"{LAYER}+xz"), layout.blob(gzip.compress(MORE), "")]
    value = {"config": layout.blob(config_of(BASE, MORE), "text/html"), "layers": blobs}
    layout.index(layout.document(value, MANIFEST))
    store = Store(root)
    store.create(f"oci:{layout.folder}", name="web")
    for compression, suffix in (("gzip", "+gzip"), ("none", "")):
        saved = base / compression
        store.save(f"oci:{layout.folder}", f"oci:{saved}", compression=compression)
        index = json.loads((saved / "index.json").read_bytes())
        (digest,) = (one["digest"] for one in index["manifests"])
        told = json.loads((saved / "blobs" / digest.replace(":", "/")).read_bytes())
        types = [one["mediaType"] for one in told["layers"]]
        assert (told["config"]["mediaType"], types) == (CONFIG, [LAYER + suffix, f"{LAYER}+gzip"])
    store.commit("web", "new")
    assert_same(facts(again(store)), facts(path_of(store, "web")))


def path_of(store: Store, name: str) -> Path:
    return Path(store.container(name).path)


def again(store: Store, name: str = "new") -> Path:
    """The root of a new container of the image ``name``."""
    return Path(store.create(name).path)


def document(root: Path, digest: str) -> Any:
    return json.loads((root / "content/blobs" / digest.replace(":", "/")).read_bytes())


def config(store: Store, root: Path, name: str = "docker.io/library/new:latest") -> Any:
    one = next(one for one in store.images() if name in one.names)
    return document(root, one.id)


def manifest(store: Store, root: Path, name: str = "docker.io/library/new:latest") -> Any:
    one = next(one for one in store.images() if name in one.names)
    assert one.manifest is not None
    return document(root, json.loads(one.manifest)["digest"])


def change(container: Path) -> None:
    """Changes of every kind, what only root may make among them where it is root."""
    (container / "etc/new").unlink()
    (container / "etc/passwd").write_bytes(b"other")
    (container / "added").mkdir(mode=0o1777)
    os.link(container / "bin/sh", container / "added/sh")
    (container / "added/one").write_bytes(b"1")
    os.link(container / "added/one", container / "added/two")
    os.setxattr(container / "bin/sh", "user.a=b", b"\0value")
    if os.geteuid() == 0:
        capability = bytes.fromhex("0100000200040000000000000000000000000000")  # NET_BIND_SERVICE
        os.setxattr(container / "added/one", "security.capability", capability)
        os.mknod(container / "added/device", 0o020600, os.makedev(1, 3))
    os.symlink("/nowhere", container / "added/link")
    os.mkfifo(container / "added/pipe")
    with open(container / "added/holes", "wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"end", 1 << 19)
    (container / "old").mkdir()


def test_a_container_of_the_new_image_is_the_same_tree(
    place: Path,
) -> None:
    store = Store(place / "store")
    first = Path(store.create(image(place / "image", BASE, MORE), name="web").path)
    change(first)
    store.commit("web", "new")
    second = again(store)
    assert_same(facts(first, atime=False), facts(second, atime=False))
    assert second.joinpath("added/sh").stat().st_ino == second.joinpath("bin/ash").stat().st_ino
    assert second.joinpath("added/one").stat().st_ino == second.joinpath("added/two").stat().st_ino
    assert_clean(place / "store")


def test_a_folder_that_was_replaced_has_nothing_of_the_old_one(store: Store) -> None:
    folder = path_of(store, "web") / "etc"
    for one in folder.iterdir():
        one.unlink()
    folder.rmdir()
    folder.mkdir()
    (folder / "only").touch()
    store.commit("web", "new")
    assert [one.name for one in (again(store) / "etc").iterdir()] == ["only"]


def test_the_layers_below_are_shared_with_the_parent(store: Store, root: Path, made: str) -> None:
    (path_of(store, "web") / "one").touch()
    store.commit("web", "new")
    parent = manifest(store, root, made)["layers"]
    child = manifest(store, root)["layers"]
    assert child[:2] == parent
    assert len(child) == 3
    assert child[2]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert len(layers_in(root)) == 4
    assert_clean(root)


def test_nothing_changed_makes_no_layer(store: Store, root: Path, made: str) -> None:
    """As Docker has it: the config tells of it in its history alone."""
    store.commit("web", "new", message="no change")
    assert manifest(store, root)["layers"] == manifest(store, root, made)["layers"]
    config_of = config(store, root)
    assert _EMPTY not in config_of["rootfs"]["diff_ids"]
    assert config_of["history"][-1]["empty_layer"] is True
    assert config_of["history"][-1]["comment"] == "no change"
    assert_same(
        facts(path_of(store, "web"), atime=False),
        facts(again(store), atime=False),
    )
    assert_clean(root)


def test_images_grow_by_a_layer_each_time(store: Store, root: Path) -> None:
    for turn in range(3):
        container = store.create("new:latest") if turn else store.container("web")
        (Path(container.path) / f"file-{turn}").touch()
        store.commit(container.name, "new")
    assert len(manifest(store, root)["layers"]) == 5
    assert len(config(store, root)["history"]) == 5
    assert {"file-0", "file-1", "file-2"} <= set(os.listdir(again(store)))


def test_the_same_changes_with_the_same_words_are_the_same_image(store: Store, made: str) -> None:
    """Though the two were changed in another order, by other steps."""
    other = store.create(made, name="other")
    for container, names in ((path_of(store, "web"), "abc"), (Path(other.path), "cba")):
        for name in names:
            (container / name).touch()
        for name in names:
            os.utime(container / name, (5, 5))
        os.utime(container, (5, 5))
    first = store.commit("web", "new", created=1.0, author="me")
    second = store.commit("other", "new", created=1.0, author="me")
    assert first.image == second.image


def test_what_a_container_runs_is_changed_by_what_is_given(store: Store, root: Path) -> None:
    changes = ConfigChanges(
        cmd=["sh", "-c", "a b"],
        env={"A": "1", "PATH": "/bin"},
        labels={"what": "test"},
        workdir="/etc",
        user="7:9",
        expose=["80/tcp"],
        volumes=["/data"],
        stop_signal="SIGINT",
    )
    store.commit("web", "new", changes=changes, author="me", message="why", created=0)
    told = config(store, root)
    assert told["config"] == {
        "Cmd": ["sh", "-c", "a b"],
        "Env": ["A=1", "PATH=/bin"],
        "Labels": {"what": "test"},
        "WorkingDir": "/etc",
        "User": "7:9",
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGINT",
    }
    assert (told["author"], told["created"]) == ("me", "1970-01-01T00:00:00Z")
    assert told["history"][-1] == {
        "created": "1970-01-01T00:00:00Z",
        "created_by": "reflayer commit",
        "author": "me",
        "comment": "why",
        "empty_layer": True,
    }


def test_what_is_not_given_stays_as_it_was(store: Store, root: Path) -> None:
    env = {"A": "1", "B": "2"}
    first = ConfigChanges(cmd=["one"], env=env, labels={"a": "1"}, user="me")
    store.commit("web", "new", changes=first)
    container = store.create("new")
    second = ConfigChanges(env={"A": "3", "C": "4"}, labels={"b": "2"})
    store.commit(container.name, "new", changes=second)
    assert config(store, root)["config"] == {
        "Cmd": ["one"],
        "Env": ["A=3", "B=2", "C=4"],
        "Labels": {"a": "1", "b": "2"},
        "User": "me",
    }


def test_a_new_entrypoint_takes_away_the_command_of_another(store: Store, root: Path) -> None:
    store.commit("web", "new", changes=ConfigChanges(cmd=["one"]))
    container = store.create("new")
    store.commit(container.name, "new", changes=ConfigChanges(entrypoint=["two"]))
    assert config(store, root)["config"] == {"Entrypoint": ["two"]}
    both = ConfigChanges(entrypoint=["three"], cmd=["four"])
    store.commit(container.name, "new", changes=both)
    assert config(store, root)["config"] == {"Entrypoint": ["three"], "Cmd": ["four"]}


def test_text_that_is_none_is_refused(store: Store, root: Path) -> None:
    with pytest.raises(ReflayerError, match="is not UTF-8"):
        store.commit("web", "new", message="\udcff")
    assert not [one for one in store.images() if "new" in str(one.names)]
    assert_clean(root)


@pytest.mark.parametrize("libraries", ["fast", "usual"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_a_layer_is_compressed_as_asked(
    store: Store, root: Path, compression: str, libraries: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if libraries == "usual":
        without_fast_libraries(monkeypatch)
    (path_of(store, "web") / "zeros").write_bytes(bytes(1 << 20))
    store.commit("web", "new", compression=compression)
    layer = manifest(store, root)["layers"][-1]
    suffix = "" if compression == "none" else f"+{compression}"
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar{suffix}"
    assert (layer["size"] > 1 << 20) == (compression == "none")
    assert (again(store) / "zeros").read_bytes() == bytes(1 << 20)


def test_a_folder_that_was_taken_in_is_packed_once(base: Path, root: Path) -> None:
    (base / "tree").mkdir()
    (base / "tree/file").write_bytes(b"x" * 5000)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(base / "tree/socket"))
    os.utime(base / "tree", (5, 5))
    store = Store(root)
    for name in ("one", "two"):
        container = store.create(f"rootfs:{base}/tree", name=f"of-{name}")
        (Path(container.path) / name).touch()
        store.commit(container.name, name)
    layers = [manifest(store, root, f"docker.io/library/{name}:latest") for name in ("one", "two")]
    assert layers[0]["layers"][0] == layers[1]["layers"][0]
    assert sorted(os.listdir(again(store, "two"))) == ["file", "two"]
    # The folder's own containers have all of it, as before.
    assert sorted(os.listdir(again(store, f"rootfs:{base}/tree"))) == ["file", "socket"]
    assert_clean(root)


def test_a_folder_without_changes_becomes_what_its_layer_makes(base: Path, root: Path) -> None:
    (base / "tree").mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(base / "tree/socket"))
    os.utime(base / "tree", (5, 5))
    store = Store(root)
    store.commit(store.create(f"rootfs:{base}/tree").name, "new")
    second = again(store)
    assert os.listdir(second) == []
    assert second.stat().st_mtime == 5
    for image_of in store.images():
        assert (image_of.names == (f"rootfs:{base}/tree",)) == image_of.is_folder


def test_sockets_are_left_out_and_told(store: Store) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{os.open(path_of(store, 'web'), os.O_PATH)}/socket")
    committed = store.commit("web", "new")
    assert committed.skipped == {"socket": 1}
    assert not (again(store) / "socket").exists()


def test_the_name_moves_to_the_new_image(store: Store, root: Path) -> None:
    (path_of(store, "web") / "one").touch()
    first = store.commit("web", "new")
    (path_of(store, "web") / "two").touch()
    second = store.commit("web", "new")
    assert first.image.id not in {one.id for one in store.images()}
    assert second.image.names == ("docker.io/library/new:latest",)
    assert_clean(root)


def test_an_image_outlives_the_container_and_its_parent(
    store: Store, root: Path, made: str
) -> None:
    (path_of(store, "web") / "one").touch()
    store.commit("web", "new")
    store.remove_container("web")
    store.remove_image(made)
    assert (again(store) / "one").exists()
    assert_clean(root)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("oci:there", "is a place"),
        ("tar:x", "is a place"),
        (f"new@sha256:{'0' * 64}", "no digest yet"),
        ("UPPER", "lower case"),
        ("", "not an image reference"),
    ],
)
def test_what_is_no_name_for_an_image_is_refused(store: Store, name: str, reason: str) -> None:
    with pytest.raises(ReflayerError, match=reason):
        store.commit("web", name)


def test_a_name_that_no_layer_can_have_is_one_clear_error(store: Store, root: Path) -> None:
    (path_of(store, "web") / ".wh.strange").touch()
    with pytest.raises(ReflayerError, match=r"\.wh\.strange: .*rename it"):
        store.commit("web", "new")
    assert len(store.images()) == 1
    assert_clean(root)


def test_a_container_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(ReflayerError, match="other: no such container"):
        store.commit("other", "new")


def test_an_image_without_history_gets_an_entry_for_each_layer(base: Path, root: Path) -> None:
    (base / "image.tar").write_bytes(tar(entry("file", b"data")))
    store = Store(root)
    container = store.create(f"tar:{base}/image.tar")
    (Path(container.path) / "one").touch()
    store.commit(container.name, "new")
    told = config(store, root)
    assert len(told["history"]) == len(told["rootfs"]["diff_ids"]) == 2
