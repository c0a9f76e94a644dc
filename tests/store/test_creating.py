"""From an image to a container: what is unpacked, what is shared, what it is called."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import ConfigChanges, ReflayerError, Store
from reflayer.errors import ArchiveError, ImageError, StoreError
from tests.archive.tars import entry, tar
from tests.cli.processes import PROGRAM
from tests.file_systems import require, require_root, shut_mount
from tests.images.layouts import CONFIG, LAYER, MANIFEST, Layout, config, on, sha256
from tests.store.stores import BASE, MORE, MOST, assert_clean, image, layers_in, names_in
from tests.trees import assert_same, facts


class Stages:
    """The stages that were told of."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[int, int | None]] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        self.told[stage] = (done, total)


def test_a_container_is_what_umoci_makes_of_the_image(place: Path) -> None:
    require_root()  # without it umoci has attributes of its own
    require("umoci")
    made = image(place / "image", BASE, MORE, MOST)
    container = Store(place / "store").create(made)
    bundle = place / "bundle"
    subprocess.run(
        ["umoci", "unpack", "--keep-dirlinks", "--image", made[4:], str(bundle)],
        check=True,
        capture_output=True,
    )
    assert_same(facts(Path(container.path), atime=False), facts(bundle / "rootfs", atime=False))


def test_a_container_of_an_image_of_many_layers_is_one_folder(base: Path, root: Path) -> None:
    container = Store(root).create(image(base / "image", BASE, MORE, MOST))
    assert len(layers_in(root)) == 3 + 1
    assert os.listdir(f"{container.path}/etc") == ["last"]
    assert_clean(root)


@pytest.mark.parametrize("kind", ["tar", "docker-archive", "oci-archive"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("path", ["-", "/dev/stdin"])  # a pipe, as "<(docker save x)" makes one
def test_an_image_may_come_from_standard_input(
    kind: str, compress: Callable[[bytes], bytes], path: str, base: Path, root: Path
) -> None:
    made = base / "made.tar"
    if kind == "tar":
        made.write_bytes(BASE)
    elif kind == "docker-archive":
        Store(root).create(image(base / "image", BASE), name="web")
        Store(root).commit("web", "x:1")
        Store(root).save("x:1", f"docker-archive:{made}")
    else:
        image(base / "image", BASE)
        subprocess.run(["tar", "-C", f"{base}/image", "-cf", made, "."], check=True)
    command = [*PROGRAM, "--root", f"{root}/other", "create", f"{kind}:{path}"]
    done = subprocess.run(
        command, input=compress(made.read_bytes()), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert names_in(os.fsdecode(done.stdout.rstrip(b"\n")) + "/bin") == {"sh", "ash"}
    names = [name for one in Store(root / "other").images() for name in one.names]
    assert names == ["docker.io/library/x:1" if kind == "docker-archive" else f"{kind}:{path}"]


def test_what_the_index_says_of_an_image_stays_with_it(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    silent = layout.image(BASE, architecture="")
    layout.index(x=layout.list(on(silent, "linux/z80")))
    store = Store(root)
    store.create(f"oci:{layout.folder}:x", name="web", platform="linux/z80")
    (stored,) = store.images()
    store.create(stored.id)
    assert [one.platform for one in store.images()] == ["linux/z80"]
    store.commit("web", "new", changes=ConfigChanges(labels={"a": "b"}))
    assert {one.platform for one in store.images()} == {"linux/z80"}


def test_a_container_of_an_image_that_is_there_takes_a_clone_and_a_record(
    base: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(root)
    store.create(image(base / "image", BASE, MORE), name="first")
    store.tag(f"oci:{base}/image:latest", "there:1")
    for name in ("read_stored", "blobs_of", "record_of"):
        monkeypatch.setattr(f"reflayer.store.images.{name}", None)
    monkeypatch.setattr("reflayer.store.collect.collect", None)
    monkeypatch.setattr("reflayer.driver.driver.Driver.list", None)  # no look at all there is
    (root / "content").rename(root / "elsewhere")
    second = store.create("there:1")
    assert second.image == "docker.io/library/there:1"
    assert names_in(second.path) == {"bin", "etc"}
    store.remove_container(store.create("there:1").id)
    (root / "elsewhere").rename(root / "content")
    assert_clean(root)


def test_who_may_leave_blobs_leaves_a_mark_and_the_next_start_clears_both(
    base: Path, root: Path
) -> None:
    store = Store(root)
    there = store.create(image(base / "image", BASE)).image_id
    stray = root / "content/blobs/sha256" / sha256(b"stray").removeprefix("sha256:")
    stray.write_bytes(b"stray")
    (root / "locks/dirty").touch()
    store.create(there)
    assert not stray.exists()
    assert_clean(root)
    with pytest.raises(ZeroDivisionError):
        store.create(
            image(base / "other", MOST), progress=lambda *_: _fail_if(root / "locks/dirty")
        )
    assert_clean(root)


def _fail_if(mark: Path) -> None:
    assert mark.exists()
    raise ZeroDivisionError


def test_a_second_container_unpacks_nothing(base: Path, root: Path) -> None:
    made = image(base / "image", BASE, MORE)
    first = Store(root).create(made)
    stages = Stages()
    second = Store(root).create(made, progress=stages)
    assert "unpack" not in stages.told
    assert "fetch" not in stages.told
    assert_same(facts(Path(first.path), atime=False), facts(Path(second.path), atime=False))
    assert len(layers_in(root)) == 2 + 2
    assert_clean(root)


def test_progress_tells_of_fetching_unpacking_and_cloning(base: Path, root: Path) -> None:
    stages = Stages()
    Store(root).create(image(base / "image", BASE, MORE), progress=stages)
    assert set(stages.told) == {"fetch", "unpack", "clone"}
    done, total = stages.told["unpack"]
    assert done == total
    done, total = stages.told["fetch"]
    assert done == total


def test_the_deepest_chain_that_is_there_is_cloned_and_the_rest_applied(
    base: Path, root: Path
) -> None:
    layout = Layout(base / "image")
    layout.index(low=layout.image(BASE, MORE), high=layout.image(BASE, MORE, MOST))
    store = Store(root)
    low = store.create(f"oci:{layout.folder}:low")
    stages = Stages()
    high = store.create(f"oci:{layout.folder}:high", progress=stages)
    sizes = {one.names[0][-3:]: one.size for one in store.images()}
    assert sizes == {"low": len(BASE + MORE), "igh": len(BASE + MORE + MOST)}
    assert stages.told["unpack"][1] == _size_of_last_layer(layout)
    assert sorted(os.listdir(f"{low.path}/etc")) == ["link", "new", "passwd"]
    assert os.listdir(f"{high.path}/etc") == ["last"]
    assert_clean(root)


def _size_of_last_layer(layout: Layout) -> int:
    return layout.path({"digest": sha256(gzip.compress(MOST, mtime=0))}).stat().st_size


def test_images_of_the_same_layers_share_one_folder(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    layout.index(
        one=layout.image(BASE, created="2020-01-01T00:00:00Z"),
        two=layout.image(BASE, created="2021-01-01T00:00:00Z"),
    )
    store = Store(root)
    store.create(f"oci:{layout.folder}:one")
    store.create(f"oci:{layout.folder}:two")
    assert len(store.images()) == 2
    assert len(layers_in(root)) == 3
    assert_clean(root)


def test_an_image_without_layers_is_an_empty_folder(base: Path, root: Path) -> None:
    container = Store(root).create(image(base / "image"))
    assert os.listdir(container.path) == []
    assert_clean(root)


def test_what_a_container_changes_stays_its_own(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    one = store.create(made)
    Path(one.path, "etc/passwd").write_text("changed")
    os.unlink(f"{one.path}/etc/old")
    two = store.create(made)
    assert Path(two.path, "etc/passwd").read_text().startswith("root:")
    assert Path(two.path, "etc/old").read_text() == "old"


def test_a_tag_that_moves_leaves_the_old_image_to_its_containers(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    name = f"oci:{layout.folder}:latest"
    store = Store(root)
    layout.index(latest=layout.image(BASE))
    old = store.create(name)
    layout.index(latest=layout.image(BASE, MORE))
    new = store.create(name)
    assert old.image_id != new.image_id
    assert {one.id: one.names for one in store.images()} == {
        old.image_id: (),
        new.image_id: (name,),
    }
    store.remove_container(old.name)
    assert [one.id for one in store.images()] == [new.image_id]
    assert_clean(root)


def test_a_tag_that_moves_takes_the_old_image_with_it_where_nobody_uses_it(
    base: Path, root: Path
) -> None:
    layout = Layout(base / "image")
    store = Store(root)
    layout.index(latest=layout.image(BASE))
    store.remove_container(store.create(f"oci:{layout.folder}:latest").name)
    layout.index(latest=layout.image(MORE))
    new = store.create(f"oci:{layout.folder}:latest")
    assert [one.id for one in store.images()] == [new.image_id]
    assert_clean(root)


def test_an_image_is_created_from_by_its_id_too(base: Path, root: Path) -> None:
    store = Store(root)
    first = store.create(image(base / "image", BASE))
    digits = first.image_id.removeprefix("sha256:")
    for text in (first.image_id, digits, digits[:12], f"sha256:{digits[:12]}"):
        assert store.create(text).image_id == first.image_id
    assert store.images()[0].names == (first.image,)


def test_an_image_that_was_loaded_goes_by_its_repository_and_tag(base: Path, root: Path) -> None:
    require("skopeo")
    made = image(base / "image", BASE)
    archive = f"docker-archive:{base}/saved.tar"
    subprocess.run(
        ["skopeo", "copy", made, f"{archive}:example.org/some/thing:1"],
        check=True,
        capture_output=True,
    )
    store = Store(root)
    first = store.create(archive)
    assert first.image == "example.org/some/thing:1"
    assert store.create("example.org/some/thing:1").image_id == first.image_id
    assert store.create("docker://example.org/some/thing:1").image_id == first.image_id
    assert_clean(root)


def test_the_content_is_a_layout_that_skopeo_and_umoci_read_in_place(
    base: Path, root: Path
) -> None:
    require("skopeo", "umoci")
    container = Store(root).create(image(base / "image", BASE, MORE))
    tag = container.image_id.removeprefix("sha256:")
    listed = subprocess.run(
        ["umoci", "list", "--layout", str(root / "content")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stdout.split() == [tag]
    subprocess.run(
        ["skopeo", "copy", f"oci:{root}/content:{tag}", f"oci:{base}/copied:x"],
        check=True,
        capture_output=True,
    )
    assert Store(root).create(f"oci:{base}/copied:x").image_id == container.image_id


def test_a_name_that_the_store_lacks_is_one_clear_line(root: Path) -> None:
    with pytest.raises(StoreError) as failed:
        Store(root).create("alpine", pull="never")
    assert "alpine: no such image in the store" in str(failed.value)
    assert "reflayer pull" in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("text", ["0" * 12, "x@sha256:" + "0" * 64])
def test_what_may_be_a_name_in_a_registry_is_not_asked_there_to_be_removed(
    root: Path, text: str
) -> None:
    with pytest.raises(StoreError, match=f"{text}: no such image"):
        Store(root).remove_image(text)


@pytest.mark.parametrize("text", ["0" * 64, "sha256:" + "0" * 64])
def test_an_id_that_the_store_lacks_is_no_such_image(root: Path, text: str) -> None:
    with pytest.raises(StoreError, match=f"{text}: no such image"):
        Store(root).create(text)
    with pytest.raises(StoreError, match=f"{text}: no such image"):
        Store(root).remove_image(text)


def test_an_image_for_another_platform_is_refused_by_name(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    layout.index(latest=layout.image(BASE, architecture="riscv64"))
    store = Store(root)
    foreign = store.create(f"oci:{layout.folder}:latest", platform="linux/riscv64")
    assert store.images()[0].platform == "linux/riscv64"
    with pytest.raises(StoreError, match="is for linux/riscv64"):
        store.create(foreign.image_id, platform="linux/arm64")


def test_a_tar_is_not_read_again_while_its_file_is_the_same(base: Path, root: Path) -> None:
    file = base / "root.tar"
    file.write_bytes(BASE)
    os.utime(file, (1, 1))
    store = Store(root)
    store.create(f"tar:{file}")
    file.write_bytes(BASE[:-1024] + tar(entry("more", b"more")))
    changed = store.create(f"tar:{file}")
    assert Path(changed.path, "more").read_bytes() == b"more"
    assert len(store.images()) == 2


def test_a_layout_is_not_read_again_while_its_index_is_the_same(
    base: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflayer.images.content.source.UNSETTLED", -60.0)  # as if it were later
    layout = Layout(base / "image")
    layout.index(latest=layout.image(BASE), other=layout.image(MORE))
    store = Store(root)
    told: list[str] = []
    one = store.create(f"oci:{layout.folder}:latest")
    (layout.folder / "blobs").rename(base / "blobs")
    assert store.create(f"oci:{layout.folder}:latest", warn=told.append).image_id == one.image_id
    assert told == []
    with pytest.raises(ImageError, match="is missing"):
        store.create(f"oci:{layout.folder}:other")
    with pytest.raises(ImageError, match="only for linux/amd64"):
        store.create(f"oci:{layout.folder}:latest", platform="linux/riscv64")
    (base / "blobs").rename(layout.folder / "blobs")
    layout.index(latest=layout.image(BASE, MORE))
    assert store.create(f"oci:{layout.folder}:latest").image_id != one.image_id


def test_a_folder_is_taken_in_once_and_anew_when_asked(base: Path, root: Path) -> None:
    folder = base / "rootfs"
    with tarfile.open(fileobj=io.BytesIO(BASE)) as archive:
        archive.extraction_filter = lambda member, _: member  # as an argument since 3.11.4
        archive.extractall(folder)
    time.sleep(2)  # of what was changed just now nothing tells whether it changed again
    store = Store(root)
    one = store.create(f"rootfs:{folder}")
    assert_same(facts(folder, atime=False), facts(Path(one.path), atime=False))
    two = store.create(f"rootfs:{folder}")
    assert two.image_id == one.image_id
    three = store.create(f"rootfs:{folder}", pull="always")
    assert three.image_id != one.image_id
    assert {one.names for one in store.images()} == {(), (f"rootfs:{folder}",)}
    assert_clean(root)


@pytest.mark.parametrize("kind", ["dead", "foreign"])
def test_a_folder_with_a_mount_that_nobody_may_enter_is_taken_in(
    base: Path, root: Path, kind: str
) -> None:
    (base / "rootfs/mnt").mkdir(parents=True)
    with shut_mount(base / "rootfs/mnt", kind):
        time.sleep(2)
        images = {Store(root).create(f"rootfs:{base}/rootfs").image_id for _ in range(2)}
    assert len(images) == 1
    assert_clean(root)


@pytest.mark.parametrize("bad", ["truncated", "wrong diff id"])
def test_a_bad_layer_leaves_nothing(base: Path, root: Path, bad: str) -> None:
    broken = BASE[:3000] if bad == "truncated" else BASE
    layout = Layout(base / "image")
    manifest = layout.image(broken)
    if bad == "wrong diff id":
        manifest = _with_other_config(layout)
    layout.index(latest=manifest)
    with pytest.raises(ArchiveError, match="layer sha256:"):
        Store(root).create(f"oci:{layout.folder}:latest")
    assert layers_in(root) == set()
    assert Store(root).images() == []
    assert_clean(root)


def _with_other_config(layout: Layout) -> dict[str, object]:
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.blob(config(MORE), CONFIG),
        "layers": [layout.blob(gzip.compress(BASE, mtime=0), LAYER + "+gzip")],
    }
    return layout.document(value, MANIFEST)


def test_a_missing_blob_leaves_nothing(base: Path, root: Path) -> None:
    layout = Layout(base / "image")
    layout.index(latest=layout.image(BASE))
    for blob in (layout.folder / "blobs/sha256").iterdir():
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            blob.unlink()
    with pytest.raises(ReflayerError):
        Store(root).create(f"oci:{layout.folder}:latest")
    assert_clean(root)


def test_a_taken_name_is_refused_before_anything_is_made(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    store.create(made, name="web")
    with pytest.raises(StoreError, match="web: there is a container of this name"):
        store.create("tar:/nowhere", name="web")
    assert len(store.containers()) == 1


def test_a_layer_that_lost_its_folder_is_unpacked_again(base: Path, root: Path) -> None:
    store = Store(root)
    made = image(base / "image", BASE)
    first = store.create(made)
    (layer,) = layers_in(root) - {first.id}
    subprocess.run(["rm", "-rf", str(root / "layers/dir" / layer)], check=True)
    second = store.create(made)
    assert_same(facts(Path(first.path), atime=False), facts(Path(second.path), atime=False))
    assert_clean(root)


@pytest.mark.parametrize("way", ["rm", "prune", "collection"])
def test_a_container_that_lost_its_folder_is_told_and_forgotten(
    base: Path, root: Path, way: str
) -> None:
    store = Store(root)
    kept = store.create(image(base / "image", BASE))
    lost = store.create(kept.image_id, name="lost")
    subprocess.run(["rm", "-rf", lost.path], check=True)
    third = store.create(kept.image_id)
    with pytest.raises(StoreError, match="lost: its folder is gone: reflayer rm lost"):
        store.changes("lost")
    if way == "rm":
        store.remove_container("lost")
    elif way == "prune":
        store.prune()
    else:
        store.tag(kept.image_id, "new")
    assert {one.name for one in store.containers()} == {kept.name, third.name}
    assert_clean(root)


def test_a_saved_image_has_all_of_its_names_or_the_one_it_is_asked_for_by(
    base: Path, root: Path
) -> None:
    saved = {"Config": "config", "RepoTags": ["x:1", "x:2", "x:1"], "Layers": ["layer"]}
    path = base / "saved.tar"
    path.write_bytes(
        tar(
            entry("config", config(BASE)),
            entry("layer", BASE),
            entry("manifest.json", json.dumps([saved]).encode()),
        )
    )
    Store(root).create(f"docker-archive:{path}:x:2")
    assert [one.names for one in Store(root).images()] == [("docker.io/library/x:2",)]
    made = Store(root).create(f"docker-archive:{path}")
    assert made.image == "docker.io/library/x:1"
    (stored,) = Store(root).images()
    assert stored.names == ("docker.io/library/x:1", "docker.io/library/x:2")
    assert_clean(root)
