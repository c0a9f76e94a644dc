"""A difference that others fill, and that is told in the end what it lies on."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import LayerError
from tests.driver.layers import kept, leftovers, make, tree
from tests.trees import assert_same


@pytest.fixture(params=["xfs", "ext4", "btrfs", "tmpfs"])
def driver(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    """A driver with the whole layer ``base``, and ``layer``, which is told of no layer yet."""
    driver = Driver(place_on(request.param) / "home", method=kept(request.param))
    make(driver, "base")
    driver.create_difference("layer", None)
    return driver


def fill_upper(upper: Path) -> None:
    """What overlayfs would leave there."""
    (upper / "added").touch()
    os.mknod(upper / "fifo", stat.S_IFCHR, 0)
    (upper / "folder").mkdir()
    os.mknod(upper / "folder/gone", stat.S_IFCHR, 0)
    os.setxattr(upper / "folder", "trusted.overlay.opaque", b"y")
    os.utime(upper / "folder", ns=(3, 4))


def test_it_is_part_of_a_stack_when_it_is_told(driver: Driver) -> None:
    fill_upper(Path(driver.folder("layer")))
    with pytest.raises(LayerError, match="it was not told yet what lies below layer layer"):
        driver.create("box", "layer")
    driver.rebase("layer", "base")
    driver.rebase("layer", "base")
    driver.sync("layer")
    driver.create("box", "layer")
    expected = dict(tree(driver.path("base")))
    found = tree(driver.path("box"))
    assert found.keys() == expected.keys() - {b"fifo", b"folder/file"} | {b"added"}
    assert found[b"folder"].mtime == 4
    root = found[b"."]
    assert root._replace(mtime=0) == expected[b"."]._replace(mtime=0) or root == expected[b"."]
    assert driver.lower("layer") == "base"
    driver.remove("base")
    assert driver.lower("layer") is None


def test_a_root_that_was_set_stays(driver: Driver) -> None:
    os.chmod(driver.folder("layer"), 0o711)
    driver.rebase("layer", "base")
    assert stat.S_IMODE(os.stat(driver.folder("layer")).st_mode) == 0o711


def test_without_a_layer_below_it_is_whole_and_has_nothing_that_hides_any(driver: Driver) -> None:
    fill_upper(Path(driver.folder("layer")))
    driver.rebase("layer", None)
    driver.rebase("layer", None)
    driver.sync("layer")
    assert driver.folder("layer") == driver.path("layer") == f"{driver.home}/dir/layer"
    found = tree(driver.path("layer"))
    assert found.keys() == {b".", b"added", b"folder"}
    assert (found[b"folder"].xattrs, found[b"folder"].mtime) == ({}, 4)
    assert found[b"."].mode == 0o755
    assert os.listdir(f"{driver.home}/differences") == []
    driver.create("box", "layer")
    assert_same(found, tree(driver.path("box")))


def test_what_cannot_be_told_is_refused(driver: Driver) -> None:
    driver.create_difference("upon", "base")
    driver.create("other", "base")
    for id, parent, reason in (
        ("layer", "nothing", "there is no layer nothing"),
        ("nothing", "base", "there is no layer nothing"),
        ("base", "other", "layer base is whole: it cannot lie on other"),
        ("upon", "other", "layer upon lies on base already"),
        ("layer", "../base", "no layer's id"),
    ):
        with pytest.raises(LayerError, match=reason):
            driver.rebase(id, parent)
    assert leftovers(driver) == []


def test_a_layer_does_not_lie_on_itself(driver: Driver) -> None:
    with driver.build_difference("upon", "layer") as upper:
        os.chmod(upper, 0o755)
    os.chmod(driver.folder("layer"), 0o711)
    for parent in ("layer", "upon"):
        with pytest.raises(LayerError, match="layer"):
            driver.rebase("layer", parent)
    assert driver.lower("layer") is None
    driver.rebase("layer", "base")
    assert len(driver.stack("upon").paths) == 3


def test_one_that_was_told_of_none_can_be_made_whole_and_be_removed(driver: Driver) -> None:
    (Path(driver.folder("layer")) / "file").touch()
    driver.make_all_whole()
    assert os.listdir(driver.path("layer")) == ["file"]
    driver.create_difference("another", None)
    driver.remove("another")
    assert driver.list() == ["base", "layer"]
    assert leftovers(driver) == []
