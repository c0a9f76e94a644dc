"""What a layer's changes come to, in bytes and inodes; and a layer that others filled, on disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import LayerError


def edit(root: Path) -> None:
    """Changes of 100,000 and 6 bytes, and some that have none of their own."""
    (root / "new").write_bytes(bytes(100_000))
    os.link(root / "new", root / "new again")
    (root / "new link").symlink_to("target")
    (root / "link").unlink()
    (root / "fifo").chmod(0o600)
    (root / "new folder").mkdir()


def test_an_untouched_clone_has_nothing_of_its_own(driver: Driver) -> None:
    assert driver.diff_size("clone", "parent") == 0
    shares = driver.status()["Shared Blocks"] == "true"
    assert driver.usage("clone", "parent") == ((0, 0) if shares else driver.usage("parent"))


def test_sizes_of_what_was_added_or_changed_count_once_for_all_names(driver: Driver) -> None:
    edit(Path(driver.path("clone")))
    assert driver.diff_size("clone", "parent") == 100_000 + len("target")


def test_of_a_file_in_which_one_byte_changed_all_counts(driver: Driver) -> None:
    with open(Path(driver.path("clone"), "folder/file"), "r+b") as file:
        file.write(b"C")
    assert driver.diff_size("clone", "parent") == 7000


def test_without_a_parent_all_files_count(driver: Driver) -> None:
    assert driver.diff_size("clone") == 7000 + len("/nowhere")


def test_usage_is_what_du_tells(driver: Driver) -> None:
    root = driver.path("clone")
    edit(Path(root))
    driver.sync("clone")
    told = subprocess.run(["du", "-s", "-B1", root], check=True, capture_output=True)
    inodes = subprocess.run(["du", "-s", "--inodes", root], check=True, capture_output=True)
    assert driver.usage("clone") == (int(told.stdout.split()[0]), int(inodes.stdout.split()[0]))


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_usage_of_a_clone_that_shares_is_its_difference(
    place_on: Callable[[str], Path], kind: str
) -> None:
    driver = Driver(place_on(kind))
    with driver.build("parent") as path:
        (Path(path) / "large").write_bytes(bytes(1 << 22))
    driver.create("clone", "parent")
    (Path(driver.path("clone")) / "new").write_bytes(b"x" * 100_000)
    driver.sync("clone")
    usage = driver.usage("clone", "parent")
    assert 100_000 <= usage.bytes < 200_000
    assert usage.inodes == 2  # with the folder that it is in


@pytest.mark.parametrize("ask", ["diff_size", "usage"])
def test_a_layer_that_is_not_there_is_named(driver: Driver, ask: str) -> None:
    with pytest.raises(LayerError, match="there is no layer nothing"):
        getattr(driver, ask)("nothing", "parent")
    with pytest.raises(LayerError, match="there is no layer nothing"):
        driver.sync("nothing")
