"""containerd unpacks images into our snapshots, and what comes out is what the layers say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.linux.statfs import file_system_name
from tests.archive.tars import entry, folder, tar
from tests.containerd_programs.conftest import Pair, Start, free
from tests.containerd_programs.containerd import require_unpacking_at_once, until
from tests.containerd_programs.images import (
    NAME,
    TIME,
    archive,
    chain_id,
    layers,
    layout,
    odd_layers,
)
from tests.file_systems import require
from tests.trees import Facts, assert_same, facts

IMPORT = ("images", "import", "--base-name", NAME)


@pytest.fixture(params=[layers, odd_layers])
def plain(request: pytest.FixtureRequest) -> tuple[bytes, ...]:
    """Layers, some with all that is hard."""
    made: tuple[bytes, ...] = request.param()
    return made


def test_an_unpacked_image_is_the_tree_that_umoci_unpacks(
    pair: Pair, tmp_path: Path, plain: tuple[bytes, ...]
) -> None:
    require("umoci")
    pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    pair.containerd.ctr("snapshots", "prepare", "container", chain_id(*plain))

    path, options = pair.containerd.mount("container")
    assert path.is_relative_to(pair.home)
    assert options == "rbind,rw"
    assert_same(told(path), told(by_umoci(tmp_path / "image", pair.home.parent / "bundle")))


def test_layers_unpacked_at_once_are_the_tree_that_umoci_unpacks(
    start: Start,
    place_on: Callable[[str], Path],
    tmp_path: Path,
    registry: str,
    plain: tuple[bytes, ...],
) -> None:
    require("umoci")
    require_unpacking_at_once()
    pair = start(place_on("xfs"), at_once=3)
    image, name = layout(tmp_path / "other", "t", *plain), f"{registry}/other:t"
    push = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{image}:t"]
    subprocess.run([*push, f"docker://{name}"], check=True)
    pair.containerd.ctr("images", "pull", "--plain-http", name)
    assert "parallel=true" in pair.containerd.log.read_text()
    pair.containerd.ctr("snapshots", "prepare", "container", chain_id(*plain))

    path, _ = pair.containerd.mount("container")
    assert_same(told(path), told(by_umoci(image, pair.home.parent / "bundle")))


def by_umoci(image: Path, bundle: Path) -> Path:
    """The root of the image that umoci unpacks."""
    command: list[str | Path] = ["umoci", "unpack", "--image", f"{image}:t", bundle]
    subprocess.run(command, check=True, capture_output=True)
    return bundle / "rootfs"


def told(root: Path) -> dict[bytes, Facts]:
    """All but the root itself, whose entry in a layer containerd leaves out."""
    every = facts(root, atime=False)
    del every[b"."]
    return every


def test_each_layer_is_a_committed_snapshot_on_top_of_the_one_below(
    xfs_pair: Pair, tmp_path: Path
) -> None:
    plain = layers()
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    chain = [chain_id(*plain[:count]) for count in range(1, len(plain) + 1)]
    below = ["", *chain]
    assert xfs_pair.containerd.snapshots() == {
        name: ("Committed", parent) for name, parent in zip(chain, below, strict=False)
    }
    tree = xfs_pair.containerd.ctr("snapshots", "tree")
    assert [line.split()[-1].lstrip("\\_") for line in tree.splitlines()] == chain
    info = xfs_pair.containerd.ctr("snapshots", "info", chain[-1])
    assert f'"Parent": "{chain[-2]}"' in info


def test_usage_tells_what_a_snapshot_takes(xfs_pair: Pair, tmp_path: Path) -> None:
    plain = layers()
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    rows = xfs_pair.containerd.ctr("snapshots", "usage", "-b").splitlines()[1:]
    sizes = {name: int(size) for name, size, _ in map(str.split, rows)}
    assert sizes.keys() == {chain_id(*plain[:count]) for count in range(1, len(plain) + 1)}
    assert sizes[chain_id(*plain)] >= 3 << 20
    assert sizes[chain_id(*plain[:2])] < 1 << 20


def test_a_view_is_the_parent_read_only(xfs_pair: Pair, tmp_path: Path) -> None:
    plain = layers()
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    xfs_pair.containerd.collect()
    xfs_pair.containerd.ctr("snapshots", "view", "view", chain_id(*plain))
    before = free(xfs_pair.home)
    path, options = xfs_pair.containerd.mount("view")
    assert options == "rbind,ro"
    assert (path / "kept/link").read_bytes() == b"a file of its own now"
    assert xfs_pair.containerd.snapshots()["view"] == ("View", chain_id(*plain))
    assert free(xfs_pair.home) >= before - (64 << 10)


def test_an_image_of_128_layers_is_unpacked_and_removed(xfs_pair: Pair, tmp_path: Path) -> None:
    plain = [tar(folder("d", mtime=TIME), entry(f"d/{n}", b"x")) for n in range(128)]
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    assert len(xfs_pair.containerd.snapshots()) == 128
    xfs_pair.containerd.ctr("snapshots", "prepare", "top", chain_id(*plain))
    path, _ = xfs_pair.containerd.mount("top")
    assert {entry.name for entry in (path / "d").iterdir()} == {str(n) for n in range(128)}
    assert (path / "d").stat().st_mtime == TIME

    xfs_pair.containerd.ctr("snapshots", "rm", "top")
    xfs_pair.containerd.ctr("images", "rm", "--sync", f"{NAME}:t")
    assert xfs_pair.containerd.snapshots() == {}


def test_a_snapshot_with_children_cannot_be_removed(xfs_pair: Pair, tmp_path: Path) -> None:
    plain = layers()
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    refused = xfs_pair.containerd.try_ctr("snapshots", "rm", chain_id(*plain[:2]))
    assert refused.returncode != 0
    assert b"cannot remove snapshot with child" in refused.stderr
    assert chain_id(*plain[:2]) in xfs_pair.containerd.snapshots()


def test_what_no_image_needs_any_more_is_collected(xfs_pair: Pair, tmp_path: Path) -> None:
    shared, one, other = layers()[:3]
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "one", "one", shared, one))
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "other", "other", shared, other))
    assert len(xfs_pair.containerd.snapshots()) == 3

    xfs_pair.containerd.ctr("images", "rm", "--sync", f"{NAME}:one")

    left = {chain_id(shared), chain_id(shared, other)}
    assert xfs_pair.containerd.snapshots().keys() == left


def test_the_disk_comes_back_when_all_is_removed(pair: Pair, tmp_path: Path) -> None:
    before = free(pair.home)
    plain = layers()
    pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    pair.containerd.ctr("snapshots", "prepare", "container", chain_id(*plain))
    path, _ = pair.containerd.mount("container")
    (path / "written").write_bytes(bytes(8 << 20))
    _write_out(path)
    assert free(pair.home) < before - (8 << 20)

    pair.containerd.ctr("snapshots", "rm", "container")
    pair.containerd.ctr("images", "rm", "--sync", f"{NAME}:t")

    assert pair.containerd.snapshots() == {}
    until(lambda: not any(pair.home.rglob("trash/*")), "the trash is empty")

    def is_free() -> bool:
        _write_out(pair.home)
        # The records have 2 MB set aside for their log, and have some pages themselves.
        return free(pair.home) > before - (2 << 20) - (1 << 18)

    until(is_free, "the disk is free again")
    assert not any(pair.home.rglob("big"))


def _write_out(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    kind = file_system_name(fd)
    os.close(fd)
    if kind == "btrfs":  # which deletes subvolumes behind, sooner where it is told so
        subprocess.run(["btrfs", "filesystem", "sync", place], check=True, capture_output=True)
    else:
        subprocess.run(["sync", "--file-system", place], check=True)


def test_an_image_is_pulled_again_after_it_was_removed(xfs_pair: Pair, tmp_path: Path) -> None:
    plain = layers()
    image = archive(tmp_path / "image", "t", *plain)
    for _ in range(2):
        xfs_pair.containerd.ctr(*IMPORT, image)
        assert chain_id(*plain) in xfs_pair.containerd.snapshots()
        xfs_pair.containerd.ctr("images", "rm", "--sync", f"{NAME}:t")
        assert xfs_pair.containerd.snapshots() == {}


def test_the_layers_of_one_image_are_there_for_another_namespace(
    xfs_pair: Pair, tmp_path: Path
) -> None:
    plain = layers()
    image = archive(tmp_path / "image", "t", *plain)
    for space in ("one", "two"):
        xfs_pair.containerd.ctr("-n", space, *IMPORT, image)
    xfs_pair.containerd.ctr("-n", "one", "images", "rm", "--sync", f"{NAME}:t")
    names = xfs_pair.containerd.ctr("-n", "two", "snapshots", "ls")
    assert chain_id(*plain) in names
    xfs_pair.containerd.ctr("-n", "two", "snapshots", "prepare", "c", chain_id(*plain))
