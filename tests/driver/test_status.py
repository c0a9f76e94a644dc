"""What a driver tells of itself is what it does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.driver import Driver
from tests.driver.layers import leftovers, make

_EXPECTED = {
    "btrfs": ("snapshot", "true"),
    "xfs": ("reflink", "true"),
    "ext4": ("range", "false"),
    "tmpfs": ("range", "false"),
}


@pytest.mark.parametrize("kind", _EXPECTED)
def test_the_status_names_the_method_that_a_clone_takes(
    place_on: Callable[[str], Path], kind: str
) -> None:
    driver = Driver(place_on(kind) / "home")
    method, shared = _EXPECTED[kind]
    assert driver.status() == {
        "Backing Filesystem": kind,
        "Method": method,
        "Shared Blocks": shared,
        "Layers": "whole" if kind == "btrfs" else "differences",
    }
    assert leftovers(driver) == []
    make(driver, "base")
    report = driver.create("clone", "base")
    assert report is not None
    assert report.method == method


def test_the_status_names_a_method_that_was_chosen(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("btrfs") / "home", method="stream")
    assert driver.status()["Method"] == "stream"
    assert driver.status()["Shared Blocks"] == "false"


def test_a_layers_metadata_is_its_path_and_how_often_it_is_referenced(place: Path) -> None:
    driver = Driver(place / "home")
    driver.create("base")
    path = os.path.join(driver.home, "dir/base")
    assert driver.metadata("base") == {"Path": path, "References": "0"}
    assert [driver.get("base"), driver.get("base")] == [path, path]
    assert driver.metadata("base")["References"] == "2"
    for left in ("1", "0", "0"):
        driver.put("base")
        assert driver.metadata("base")["References"] == left


def test_a_layer_of_an_id_that_was_removed_has_no_references_yet(place: Path) -> None:
    driver = Driver(place / "home")
    driver.create("layer")
    driver.get("layer")
    driver.remove("layer")
    driver.create("layer")
    assert driver.metadata("layer")["References"] == "0"
