"""Layers are made, found and removed by id, whole or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import CopyError, LayerError, OperationError
from tests.driver.layers import fill, leftovers, make, tree
from tests.trees import assert_same


@pytest.fixture
def driver(place: Path) -> Driver:
    return Driver(place / "home")


def test_a_layer_without_parent_is_an_empty_folder_whatever_the_umask(driver: Driver) -> None:
    umask = os.umask(0o077)
    try:
        assert driver.create("base") is None
    finally:
        os.umask(umask)
    status = os.stat(driver.path("base"))
    assert status.st_mode & 0o7777 == 0o755
    assert os.listdir(driver.path("base")) == []
    assert driver.path("base") == os.path.join(driver.home, "dir", "base")


@pytest.mark.parametrize("durable", [True, False])
def test_a_clone_is_the_same_tree_as_its_parent(driver: Driver, durable: bool) -> None:
    make(driver, "base")
    if durable:
        with driver.build("clone", "base"):
            pass
    else:
        assert driver.create("clone", "base") is not None
    assert_same(tree(driver.path("base")), tree(driver.path("clone")))
    assert leftovers(driver) == []


def test_a_clone_and_its_parent_are_independent(driver: Driver) -> None:
    before = tree(make(driver, "base"))
    driver.create("clone", "base")
    (Path(driver.path("clone")) / "folder/file").write_bytes(b"other")
    (Path(driver.path("clone")) / "new").touch()
    assert_same(before, tree(driver.path("base")))
    driver.remove("base")
    assert (Path(driver.path("clone")) / "folder/file").read_bytes() == b"other"


def test_a_build_appears_when_its_block_ends(driver: Driver) -> None:
    make(driver, "base")
    with driver.build("next", "base") as path:
        (Path(path) / "added").write_text("by the block")
        assert not driver.exists("next")
        assert driver.list() == ["base"]
    assert driver.list() == ["base", "next"]
    assert (Path(driver.path("next")) / "added").read_text() == "by the block"
    assert leftovers(driver) == []


def test_a_build_whose_block_raises_leaves_nothing(driver: Driver) -> None:
    make(driver, "base")

    def build_and_fail() -> None:
        with driver.build("next", "base") as path:
            (Path(path) / "added").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build_and_fail()
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_a_build_whose_path_was_moved_away_is_an_error_and_leaves_nothing(driver: Driver) -> None:
    def build_and_lose() -> None:
        with driver.build("next") as path:
            os.rmdir(path)

    with pytest.raises(OperationError, match="next"):
        build_and_lose()
    assert driver.list() == []
    assert leftovers(driver) == []


def test_the_second_layer_of_an_id_is_refused_and_the_first_stays(driver: Driver) -> None:
    before = tree(make(driver, "base"))
    with pytest.raises(LayerError, match="layer base exists already"):
        driver.create("base")
    assert_same(before, tree(driver.path("base")))


def test_a_layer_that_was_made_meanwhile_wins(driver: Driver) -> None:
    def build_and_be_late() -> None:
        with driver.build("same") as path:
            (Path(path) / "late").touch()
            driver.create("same")

    with pytest.raises(LayerError, match="layer same exists already"):
        build_and_be_late()
    assert os.listdir(driver.path("same")) == []
    assert leftovers(driver) == []


def test_a_missing_parent_is_an_error_and_leaves_nothing(driver: Driver) -> None:
    with pytest.raises(LayerError, match="there is no layer nothing"):
        driver.create("clone", "nothing")
    assert driver.list() == []
    assert leftovers(driver) == []


def test_get_of_a_missing_layer_is_an_error_and_remove_is_none(driver: Driver) -> None:
    with pytest.raises(LayerError, match="there is no layer nothing"):
        driver.get("nothing")
    driver.remove("nothing")
    driver.put("nothing")
    assert not driver.exists("nothing")


def test_a_removed_layer_is_gone_at_once_and_its_id_is_free(driver: Driver) -> None:
    make(driver, "base")
    driver.remove("base")
    assert not driver.exists("base")
    assert leftovers(driver) == []
    driver.create("base")
    assert os.listdir(driver.path("base")) == []


def test_a_referenced_layer_can_be_removed_as_with_docker(driver: Driver) -> None:
    driver.create("base")
    assert driver.get("base") == driver.path("base")
    driver.remove("base")
    driver.put("base")
    assert driver.list() == []


@pytest.mark.parametrize(
    "id",
    ["", ".", "..", ".hid", "-d", "a/b", "../dir/a", "/etc", "a\n", "a\0", "a b", "ä", "a" * 129],
)
def test_what_is_no_id_is_refused_at_every_entrance(
    place_on: Callable[[str], Path], id: str
) -> None:
    driver = Driver(place_on("tmpfs") / "home")
    driver.create("base")

    def build(*ids: str) -> None:
        with driver.build(*ids):
            pass

    for entrance in (
        driver.create, build, driver.get, driver.put, driver.path,
        driver.exists, driver.remove, driver.metadata,
        lambda id: driver.create("new", id),
        lambda id: build("new", id),
    ):  # fmt: skip
        with pytest.raises(LayerError, match="is no layer's id") as caught:
            entrance(id)
        assert str(caught.value).isprintable()
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_the_longest_id_and_dockers_ids_work(driver: Driver) -> None:
    ids = sorted(["0" * 128, "f" * 64, "f" * 64 + "-init", "a.lock", "B_c.d-e"])
    for id in ids:
        driver.create(id)
    assert driver.list() == ids


def test_a_home_that_dockers_vfs_driver_filled_works_as_it_is(place: Path) -> None:
    base, init = "ab" * 32, "ab" * 32 + "-init"
    for id in (base, init):
        (place / "vfs/dir" / id).mkdir(parents=True)
        fill(str(place / "vfs/dir" / id))
    driver = Driver(place / "vfs")
    assert driver.list() == [base, init]
    before = tree(driver.get(init))
    driver.create("cd" * 32, init)
    assert_same(before, tree(driver.path("cd" * 32)))
    driver.remove(init)
    assert driver.list() == [base, "cd" * 32]
    assert leftovers(driver) == []


def test_only_folders_with_an_id_for_a_name_are_layers(driver: Driver) -> None:
    folder = Path(driver.home) / "dir"
    driver.create("layer")
    (folder / "file").touch()
    (folder / "link").symlink_to("layer")
    (folder / ".hidden").mkdir()
    assert driver.list() == ["layer"]
    assert not driver.exists("file")
    assert not driver.exists("link")
    driver.remove("link")
    assert (folder / "link").is_symlink()


def test_nothing_is_inherited_from_the_homes_own_folder(place_on: Callable[[str], Path]) -> None:
    place = place_on("ext4")
    os.chown(place, -1, 12345)
    place.chmod(0o2777)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", place], check=True)
    driver = Driver(place / "home")
    driver.create("base")
    status = os.stat(driver.path("base"))
    assert (status.st_gid, status.st_mode & 0o7777) == (os.getegid(), 0o755)
    assert os.listxattr(driver.path("base")) == []


def test_others_have_no_way_into_a_new_home(driver: Driver) -> None:
    assert os.stat(driver.home).st_mode & 0o077 == 0


def test_an_unknown_method_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match="method 'magic' is not one of auto, snapshot"):
        Driver(place / "home", method="magic")
    assert not (place / "home").exists()


def test_a_failed_clone_leaves_nothing(place_on: Callable[[str], Path]) -> None:
    place = place_on("ext4")
    driver = Driver(place / "home", method="reflink")
    path = make(driver, "base")
    with pytest.raises(CopyError, match="reflink"):
        driver.create("clone", "base")
    assert driver.list() == ["base"]
    assert os.path.isdir(path)
    assert leftovers(driver) == []
