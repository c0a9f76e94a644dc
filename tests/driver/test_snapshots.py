"""On btrfs a layer is a subvolume, and a clone a snapshot where nothing is lost by it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reflayer.driver import Driver
from reflayer.errors import CopyError, LayerError
from reflayer.linux.btrfs import create_snapshot, create_subvolume, is_subvolume
from tests.driver.layers import fill, leftovers, make, run_as, tree
from tests.file_systems import mounted
from tests.trees import assert_same, facts


@pytest.fixture
def btrfs(place_on: Callable[[str], Path]) -> Path:
    return place_on("btrfs")


def subvolume_at(path: str | Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return is_subvolume(fd)
    finally:
        os.close(fd)


def make_subvolume(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        create_subvolume(fd, os.fsencode(path.name))
    finally:
        os.close(fd)


@pytest.mark.parametrize("method", ["auto", "snapshot"])
def test_a_clone_is_a_snapshot_and_the_same_tree(btrfs: Path, method: str) -> None:
    driver = Driver(btrfs / "home", method=method)
    path = make(driver, "base")
    (Path(path) / "just written").write_bytes(os.urandom(1 << 20))
    os.utime(path, ns=(77_000_000_007, 5))
    before = os.stat(path)
    report = driver.create("created", "base")
    assert report is not None
    assert (report.method, report.entries, report.bytes) == ("snapshot", {}, {})
    with driver.build("built", "base"):
        pass
    for id in ("created", "built"):
        after = os.stat(driver.path(id))
        assert (after.st_atime_ns, after.st_mtime_ns) == (before.st_atime_ns, before.st_mtime_ns)
        assert_same(tree(path), tree(driver.path(id)))
        assert leftovers(driver) == []


def test_layers_and_clones_are_subvolumes_and_write_apart(btrfs: Path) -> None:
    driver = Driver(btrfs / "home")
    path = make(driver, "base")
    before = tree(path)
    driver.create("clone", "base")
    (Path(driver.path("clone")) / "folder/file").write_bytes(b"other")
    assert subvolume_at(path)
    assert subvolume_at(driver.path("clone"))
    assert_same(before, tree(path))


def test_a_build_starts_from_a_snapshot(btrfs: Path) -> None:
    driver = Driver(btrfs / "home", method="snapshot")
    make(driver, "base")
    with driver.build("next", "base") as path:
        assert_same(tree(driver.path("base")), tree(path))
        (Path(path) / "added").touch()
    assert (Path(driver.path("next")) / "added").exists()


def test_a_subvolume_inside_the_parent_is_not_lost(btrfs: Path) -> None:
    driver = Driver(btrfs / "home")
    path = Path(make(driver, "base"))
    make_subvolume(path / "folder/inner")
    (path / "folder/inner/file").write_bytes(b"would be missing in a snapshot")
    os.utime(path / "folder/inner", ns=(1, 2))
    report = driver.create("clone", "base")
    assert report is not None
    assert report.method == "reflink"
    assert_same(tree(path), tree(driver.path("clone")))
    assert subvolume_at(driver.path("clone"))
    driver.remove("base")
    driver.remove("clone")
    assert leftovers(driver) == []


def test_a_subvolume_inside_is_an_error_where_a_snapshot_is_named(btrfs: Path) -> None:
    driver = Driver(btrfs / "home", method="snapshot")
    make_subvolume(Path(make(driver, "base")) / "inner")
    with pytest.raises(CopyError, match="a subvolume inside the parent would be missing"):
        driver.create("clone", "base")
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_plain_folders_of_a_home_from_elsewhere_are_cloned_into_subvolumes(btrfs: Path) -> None:
    (btrfs / "home/dir/base").mkdir(parents=True)
    fill(btrfs / "home/dir/base")
    driver = Driver(btrfs / "home")
    report = driver.create("clone", "base")
    assert report is not None
    assert report.method == "reflink"
    assert subvolume_at(driver.path("clone"))
    assert_same(tree(driver.path("base")), tree(driver.path("clone")))
    again = driver.create("again", "clone")
    assert again is not None
    assert again.method == "snapshot"
    with pytest.raises(CopyError, match="the parent is not a btrfs subvolume"):
        Driver(btrfs / "home", method="snapshot").create("third", "base")
    for id in driver.list():
        driver.remove(id)
    assert leftovers(driver) == []


def test_a_parent_on_another_file_system_is_cloned_file_by_file(
    btrfs: Path, place_on: Callable[[str], Path]
) -> None:
    elsewhere = place_on("xfs")
    fill(elsewhere)
    driver = Driver(btrfs / "home")
    (btrfs / "home/dir/base").mkdir()
    subprocess.run(["mount", "--bind", elsewhere, btrfs / "home/dir/base"], check=True)
    try:
        report = driver.create("clone", "base")
        assert report is not None
        assert report.method in ("range", "stream")
        assert_same(tree(elsewhere), tree(driver.path("clone")))
    finally:
        subprocess.run(["umount", btrfs / "home/dir/base"], check=True)


@pytest.mark.parametrize("method", ["reflink", "range", "stream"])
def test_a_named_method_makes_no_snapshot(btrfs: Path, method: str) -> None:
    driver = Driver(btrfs / "home", method=method)
    make(driver, "base")
    report = driver.create("clone", "base")
    assert report is not None
    assert report.method == method
    assert_same(tree(driver.path("base")), tree(driver.path("clone")))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_a_snapshot_named_elsewhere_is_an_error_and_makes_nothing(
    place_on: Callable[[str], Path], kind: str
) -> None:
    place = place_on(kind)
    make(Driver(place / "home"), "base")
    driver = Driver(place / "home", method="snapshot")
    with pytest.raises(CopyError, match="not a btrfs subvolume: use another method or auto"):
        driver.create("clone", "base")
    with pytest.raises(CopyError, match="no btrfs subvolumes here"):
        driver.create("empty")
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_a_clone_of_a_read_only_subvolume_can_be_written(btrfs: Path) -> None:
    driver = Driver(btrfs / "home")
    path = make(driver, "base")
    subprocess.run(["btrfs", "property", "set", path, "ro", "true"], check=True)
    report = driver.create("clone", "base")
    assert report is not None
    assert report.method == "snapshot"
    (Path(driver.path("clone")) / "new").touch()
    driver.remove("base")
    assert driver.list() == ["clone"]
    assert leftovers(driver) == []


def test_a_snapshot_of_a_layer_whose_deletion_has_begun_is_no_layer(
    btrfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(btrfs / "home")
    path = Path(make(driver, "base"))
    trash = path.parents[1] / "trash/base"

    def remove_first(*arguments: Any) -> None:
        path.rename(trash)
        (trash / "folder/file").unlink()
        create_snapshot(*arguments)

    monkeypatch.setattr("reflayer.linux.btrfs.create_snapshot", remove_first)
    with pytest.raises(LayerError, match="layer base was removed while it was being cloned"):
        driver.create("clone", "base")
    assert driver.list() == []
    assert leftovers(driver) == ["base"]


_LIVES = """
import os, sys
from reflayer.driver import Driver
from tests.driver.layers import leftovers, make, tree
from tests.trees import assert_same
driver = Driver(sys.argv[1] + "/home", method=sys.argv[2])
path = make(driver, "base")
report = driver.create("clone", "base")
assert_same(tree(path), tree(driver.path("clone")))
for id in driver.list():
    os.chmod(driver.path(id) + "/folder", 0)
    driver.remove(id)
assert driver.list() == leftovers(driver) == []
print(report.method)
"""


def test_another_user_than_root_has_snapshots_too(btrfs: Path) -> None:
    assert run_as(12345, _LIVES, btrfs, "snapshot") == "snapshot\n"


@pytest.mark.parametrize("kind", ["xfs", "ext4", "tmpfs"])
def test_another_user_than_root_has_a_driver(place_on: Callable[[str], Path], kind: str) -> None:
    run_as(12345, _LIVES, place_on(kind), "auto")


_CLONES_ANOTHERS = """
import os, sys
from reflayer.driver import Driver
driver = Driver(sys.argv[1] + "/home", ownership="ignore")
print(driver.create("clone", "base").method)
"""


def test_a_layer_of_somebody_else_is_cloned_file_by_file(btrfs: Path) -> None:
    driver = Driver(btrfs / "home")
    with driver.build("base") as path:
        (Path(path) / "file").write_bytes(b"readable for all")
    for folder in ("", "/dir", "/tmp", "/trash", "/trash.lock", "/differences", "/publish.lock"):
        os.chown(driver.home + folder, 12345, 12345)
    assert run_as(12345, _CLONES_ANOTHERS, btrfs) == "reflink\n"
    assert (Path(driver.path("clone")) / "file").read_bytes() == b"readable for all"


def test_the_space_of_a_removed_layer_comes_back(tmp_path: Path) -> None:
    with mounted("btrfs", tmp_path) as btrfs:  # of its own: nobody else's space comes back
        driver = Driver(btrfs / "home")

        def free() -> int:
            subprocess.run(["btrfs", "filesystem", "sync", btrfs], check=True)
            subprocess.run(["btrfs", "subvolume", "sync", btrfs], check=True, capture_output=True)
            subprocess.run(["btrfs", "filesystem", "sync", btrfs], check=True)
            return os.statvfs(btrfs).f_bavail * os.statvfs(btrfs).f_bsize

        driver.create("base")
        before = free()
        with driver.build("big") as path:
            (Path(path) / "file").write_bytes(os.urandom(50 << 20))
        assert free() < before - (40 << 20)
        driver.remove("big")
        assert free() > before - (10 << 20)


def test_access_times_are_kept_too(btrfs: Path) -> None:
    driver = Driver(btrfs / "home")
    with driver.build("base") as path:
        (Path(path) / "file").touch()
        os.utime(Path(path) / "file", ns=(5, 6))
        os.utime(path, ns=(7, 8))
    driver.create("clone", "base")
    clone = facts(Path(driver.path("clone")))
    assert (clone[b"."].atime, clone[b"file"].atime) == (7, 5)
