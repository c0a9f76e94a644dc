"""What changed in a layer since its parent: told, read as a layer, refused when it goes away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflayer.archive import apply_layer
from reflayer.driver import Driver
from reflayer.errors import ArchiveError, LayerError
from tests.driver.layers import tree
from tests.trees import assert_same


def _edit(path: str) -> None:
    root = Path(path)
    (root / "link").unlink()
    (root / "folder/new").write_bytes(b"new" * 100_000)
    os.link(root / "folder/file", root / "third name")


def test_an_untouched_clone_differs_in_nothing(driver: Driver) -> None:
    assert list(driver.changes("clone", "parent")) == []
    with driver.diff("clone", "parent") as stream:
        assert stream.read() == bytes(1024)


def test_changes_are_told_by_kind_and_path(driver: Driver) -> None:
    _edit(driver.path("clone"))
    told = [(change.kind, change.path) for change in driver.changes("clone", "parent")]
    assert told == [
        ("C", "/folder"),
        ("A", "/folder/new"),
        ("D", "/link"),
        ("A", "/third name"),
    ]


def test_the_diff_applied_to_the_parent_gives_the_layer(driver: Driver) -> None:
    _edit(driver.path("clone"))
    with driver.build("other", "parent") as path, driver.diff("clone", "parent") as stream:
        apply_layer(path, stream)
    assert_same(tree(driver.path("clone")), tree(driver.path("other")))


def test_without_a_parent_the_diff_is_the_whole_layer(driver: Driver) -> None:
    with driver.build("other") as path, driver.diff("clone") as stream:
        apply_layer(path, stream)
    assert_same(tree(driver.path("clone")), tree(driver.path("other")))


@pytest.mark.parametrize(("one", "other"), [("nothing", "parent"), ("clone", "nothing")])
def test_a_layer_that_is_not_there_is_named(driver: Driver, one: str, other: str) -> None:
    with pytest.raises(LayerError, match="there is no layer nothing"):
        driver.changes(one, other)
    with pytest.raises(LayerError, match="there is no layer nothing"):
        driver.diff(one, other)


def test_a_layer_that_goes_away_meanwhile_is_no_smaller_layer(driver: Driver) -> None:
    for number in range(3):
        folder = Path(driver.path("clone"), f"new {number}")
        folder.mkdir()
        (folder / "file").write_bytes(bytes(1 << 20))
    with driver.diff("clone", "parent") as stream:
        assert stream.read(1)
        driver.remove("clone")
        with pytest.raises(LayerError, match="layer clone was removed"):
            stream.read()


def test_closing_a_diff_lets_go_of_its_folders(driver: Driver) -> None:
    before = os.listdir("/proc/self/fd")
    stream = driver.diff("clone")
    assert stream.read(1)
    stream.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_name_that_no_layer_can_have_is_refused(driver: Driver) -> None:
    Path(driver.path("clone"), ".wh.name").touch()
    with driver.diff("clone", "parent") as stream, pytest.raises(ArchiveError, match=r"\.wh\."):
        stream.read()
