"""Checkpoints of a container's layer: it goes back to what a whole copy taken then still has."""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer.copy import copy_tree, remove_tree
from reflayer.driver import Driver
from reflayer.driver.clone_times import forget
from reflayer.errors import LayerError
from reflayer.walk.folders import identity
from tests.archive.test_random_changes import EDITS, Edit, edit
from tests.driver.layers import fill, kept, tree
from tests.file_systems import require_root
from tests.trees import assert_same, facts

pytestmark = pytest.mark.usefixtures("_root")
KINDS = ["xfs", "ext4", "btrfs"]


@pytest.fixture
def _root() -> None:
    require_root()


@pytest.fixture(params=["xfs", "ext4", "btrfs", "btrfs snapshots", "tmpfs"])
def driver(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    """With an image of two layers, and a container of it."""
    kind, _, snapshots = request.param.partition(" ")
    driver = Driver(place_on(kind), method="auto" if snapshots else kept(kind))
    with driver.build("base") as path:
        fill(path)
    with driver.build("image", "base") as path:
        Path(path, "folder/above").write_text("above")
    driver.create("container", "image")
    return driver


def checkpoint(driver: Driver, new: str, id: str = "container") -> str:
    with driver.changing(id), driver.checkpoint(id, new) as made:
        pass
    return made.layer


def tells_times(driver: Driver) -> bool:
    """Whether it can be told what changed, and be kept."""
    return driver.keeps_differences and driver.status()["Backing Filesystem"] != "tmpfs"


def rollback(driver: Driver, to: str, id: str = "container") -> None:
    with driver.changing(id):
        driver.rollback(id, to)


def test_a_checkpoint_is_a_layer_and_a_rollback_undoes_what_came_after(driver: Driver) -> None:
    root = Path(driver.path("container"))
    (root / "folder/file").write_text("changed")
    (root / "new").mkdir()
    (root / "fifo").unlink()
    before = tree(root)
    assert checkpoint(driver, "first") == "first"
    assert driver.is_difference("first") == tells_times(driver)
    shutil.rmtree(root / "folder")
    (root / "new/in").write_text("x")
    root.chmod(0o700)
    rollback(driver, "first")
    assert_same(before, tree(root))
    driver.create("fork", "first")
    assert_same(before, tree(driver.path("fork")))
    assert not os.listdir(f"{driver.home}/tmp")
    assert not os.listdir(f"{driver.home}/changing")


def test_where_nothing_changed_there_is_no_new_layer(driver: Driver) -> None:
    if not tells_times(driver):
        pytest.skip("nothing is compared")
    Path(driver.path("container"), "new").touch()
    time.sleep(0.02)  # what was made in the clock's last tick is taken for changed
    assert checkpoint(driver, "first") == "first"
    assert checkpoint(driver, "second") == "first"
    assert driver.list() == ["base", "container", "first", "image"]


def test_a_folder_below_a_new_container_s_root_is_not_copied_whole(driver: Driver) -> None:
    if not tells_times(driver):
        pytest.skip("nothing is compared")
    with driver.build("large", "image") as path:
        for number in range(3000):
            Path(path, "folder", f"{number}").touch()
    driver.create("container2", "large")
    Path(driver.path("container2"), "folder/new").write_text("x")
    assert checkpoint(driver, "first", "container2") == "first"
    assert len(os.listdir(f"{driver.folder('first')}/folder")) < 3000
    before = tree(driver.path("container2"))
    Path(driver.path("container2"), "folder/7").unlink()
    rollback(driver, "first", "container2")
    assert_same(before, tree(driver.path("container2")))


def test_a_folder_that_is_changed_with_the_one_that_it_is_in_is_not_copied_whole(
    driver: Driver,
) -> None:
    if not tells_times(driver):
        pytest.skip("nothing is compared")
    root = Path(driver.path("container"))
    (root / "work/many").mkdir(parents=True)
    for number in range(50):
        (root / f"work/many/{number}").touch()
    checkpoint(driver, "first")
    for name in ("second", "third"):
        (root / f"work/{name}").touch()
        (root / f"work/many/{name}").touch()
        assert checkpoint(driver, name) == name
        assert os.listdir(f"{driver.folder(name)}/work/many") == [name]
        before = tree(root)
        inode = (root / "work/many/7").stat().st_ino
        (root / "work/new").touch()
        (root / "work/many/8").unlink()
        rollback(driver, name)
        assert_same(before, tree(root))
        assert (root / "work/many/7").stat().st_ino == inode
    (root / "work/many").rename(root / "work/x")
    (root / "work/many").mkdir()
    checkpoint(driver, "fourth")
    before = tree(root)
    (root / "work/many").rmdir()
    (root / "work/x").rename(root / "work/many")
    rollback(driver, "fourth")
    assert_same(before, tree(root))


def test_it_goes_to_any_layer_and_on_from_there(driver: Driver) -> None:
    root = Path(driver.path("container"))
    trees = {"image": tree(root)}
    for number in range(5):
        (root / f"file {number}").write_text("x")
        (root / "folder/file").write_text(str(number))
        checkpoint(driver, f"layer{number}")
        trees[f"layer{number}"] = tree(root)
    for to in ("layer1", "layer4", "image", "layer0", "layer0"):
        (root / "more").touch()
        rollback(driver, to)
        assert_same(trees[to], tree(root))
    (root / "file 0").unlink()
    checkpoint(driver, "branch")
    trees["branch"] = tree(root)
    for to in ("layer3", "branch"):
        rollback(driver, to)
        assert_same(trees[to], tree(root))
    before = identity(root.stat())
    rollback(driver, "layer3")
    assert (identity(root.stat()) == before) == tells_times(driver)


def test_without_a_note_it_is_done_all_the_same(driver: Driver) -> None:
    root = Path(driver.path("container"))
    (root / "new").touch()
    forget(driver.home, "container")
    assert checkpoint(driver, "first") == "first"
    before = tree(root)
    (root / "new").write_text("x")
    forget(driver.home, "container")
    rollback(driver, "first")
    assert_same(before, tree(root))
    (root / "other").touch()
    checkpoint(driver, "second")
    (root / "other").unlink()
    rollback(driver, "second")
    assert (root / "other").exists()


def test_no_stack_gets_too_high(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflayer.driver.checkpoint._MOST", 8)
    monkeypatch.setattr("reflayer.driver.checkpoint._RUN", 100)
    root = Path(driver.path("container"))
    trees = []
    for number in range(20):
        (root / "folder/file").write_text(str(number))
        checkpoint(driver, f"layer{number}")
        trees.append(tree(root))
    heights = [len(driver.stack(f"layer{number}").differences) for number in range(20)]
    assert max(heights) <= 8
    for number in (10, 3, 19, 7):
        rollback(driver, f"layer{number}")
        assert_same(trees[number], tree(root))


def test_many_checkpoints_are_joined(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tells_times(driver):
        pytest.skip("differences are not kept")
    monkeypatch.setattr("reflayer.driver.checkpoint._RUN", 3)
    root = Path(driver.path("container"))
    base = len(driver.stack("image").differences)
    trees = []
    heights = []
    for number in range(18):
        (root / "folder/file").write_text(str(number))
        (root / f"file {number}").touch()
        (root / f"file {number - 2}").unlink(missing_ok=True)
        for name in ("moved", "made"):
            if (root / name).exists():
                (root / name).rename(root / "moved")
        if number % 4 == 0:
            shutil.rmtree(root / "moved", ignore_errors=True)
            (root / "made/in").mkdir(parents=True)
        os.link(root / f"file {number}", root / f"link {number % 5}.{number}")
        checkpoint(driver, f"layer{number}")
        trees.append(tree(root))
        heights.append(len(driver.stack(f"layer{number}").differences) - base)
    assert heights == [1, 2, 1, 2, 3, 2, 3, 4, 1, 2, 3, 2, 3, 4, 3, 4, 5, 2]
    for number in (10, 3, 17, 7):
        rollback(driver, f"layer{number}")
        assert_same(trees[number], tree(root))
        driver.create(f"fork{number}", f"layer{number}")
        assert_same(trees[number], tree(driver.path(f"fork{number}")))


def test_what_several_have_changed_is_told_as_one(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(driver.path("container"))
    time.sleep(0.02)  # what was made in the clock's last tick is taken for changed
    rollback(driver, "image")
    (root / "folder/file").write_text("changed")  # the second name's, too
    (root / "made/in").mkdir(parents=True)
    checkpoint(driver, "first")
    (root / "fifo").unlink()
    (root / "made/in").rename(root / "moved")
    checkpoint(driver, "second")
    if driver.is_difference("second"):  # no tree of it is made
        monkeypatch.delattr("reflayer.driver.compare.hold")
    told = {(one.kind, one.path) for one in driver.changes("second", "image")}
    assert told == {
        ("C", "/folder"), ("C", "/folder/file"), ("C", "/second name"),
        ("A", "/made"), ("A", "/moved"), ("D", "/fifo"),
    }  # fmt: skip
    with driver.diff("second", "image") as layer, tarfile.open(fileobj=layer, mode="r|") as tar:
        names = {member.name.strip("./") for member in tar}
    assert {"made", "moved", "folder/file", "second name", ".wh.fifo".strip(".")} <= names
    assert "made/in" not in names
    assert not os.listdir(f"{driver.home}/tmp")


def test_a_layer_that_is_missing_or_there_is_refused(driver: Driver) -> None:
    for what in (
        lambda: checkpoint(driver, "image"),
        lambda: checkpoint(driver, "first", "nowhere"),
        lambda: rollback(driver, "nowhere"),
        lambda: rollback(driver, "image", "nowhere"),
    ):
        with pytest.raises(LayerError):
            what()
    assert driver.list() == ["base", "container", "image"]


def test_checkpoints_while_others_write_have_each_file_whole(driver: Driver) -> None:
    if driver.status()["Backing Filesystem"] == "tmpfs":
        pytest.skip("a copy of all cannot be made while others write")
    root = Path(driver.path("container"))
    end = threading.Event()

    def write() -> None:
        number = 0
        while not end.is_set():
            number += 1
            (root / "next").write_text(f"{number}\n" * 2000)
            (root / "next").rename(root / f"file {number % 20}")
            if number % 7 == 0:
                (root / f"file {number % 20}").unlink()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            checkpoint(driver, f"layer{number}")
    finally:
        end.set()
        thread.join()
    checkpoint(driver, "last")
    before = tree(root)
    rollback(driver, "layer2")
    for path in root.glob("file *"):
        assert len({*path.read_text().split("\n")} - {""}) <= 1
    rollback(driver, "last")
    assert_same(before, tree(root))


@pytest.mark.parametrize("kind", KINDS)
def test_random_histories(
    place_on: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rollback gives what a whole copy taken at the checkpoint has."""
    place = place_on(kind)
    if kind != "btrfs":
        monkeypatch.setattr("reflayer.driver.checkpoint._RUN", 2)
    driver = Driver(place / "home", method=kept(kind))
    with driver.build("image") as path:
        fill(path)
    numbers = iter(range(1_000_000))

    @settings(
        max_examples=40, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(st.lists(st.tuples(EDITS, st.integers(0, 20)), min_size=1, max_size=5))
    def try_it(steps: list[tuple[list[Edit], int]]) -> None:
        mark = next(numbers)
        name = f"container{mark}"
        driver.create(name, "image")
        root = Path(driver.path(name))
        layers = ["image"]
        copies = place / f"copies{mark}"
        copies.mkdir()
        copy_tree(root, copies / "0")
        try:
            for edits, choice in steps:
                for one in edits:
                    edit(os.fsencode(root), *one)
                layer = checkpoint(driver, f"layer{mark}.{len(layers)}", name)
                copy_tree(root, copies / str(len(layers)))
                layers.append(layer)
                for one in edits:
                    edit(os.fsencode(root), *one)
                to = choice % len(layers)
                rollback(driver, layers[to], name)
                assert_same(
                    facts(copies / str(to), atime=False, holes=True),
                    facts(root, atime=False, holes=True),
                )
        finally:
            driver.remove(name)
            for layer in reversed(layers):
                if layer != "image":
                    driver.remove(layer)
            remove_tree(copies)

    try_it()


def test_what_is_different_from_the_image_is_still_told_by_times(driver: Driver) -> None:
    if not tells_times(driver):
        pytest.skip("nothing is compared")
    root = Path(driver.path("container"))
    since = driver.cloned("container", "image")
    assert since is not None
    (root / "new").touch()
    checkpoint(driver, "first")
    (root / "folder/above").unlink()
    assert driver.cloned("container", "image") == since
    assert driver.cloned("container", "first") != since
    told = [(one.kind, one.path) for one in driver.changes("container", "image")]
    assert told == [("C", "/folder"), ("D", "/folder/above"), ("A", "/new")]
    rollback(driver, "first")
    told = [(one.kind, one.path) for one in driver.changes("container", "image")]
    assert told == [("A", "/new")]
