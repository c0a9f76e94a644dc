"""SELinux labels of layers: set where the kernel has SELinux, of no effect where not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflayer.driver import Driver, home
from tests.driver.layers import make, tree
from tests.trees import assert_same

_LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def test_without_selinux_a_label_is_of_no_effect(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(home, "_SELINUX", str(tmp_path / "absent"))
    driver = Driver(place)
    make(driver, "base")
    driver.create("clone", "base", mount_label=_LABEL)
    assert_same(tree(driver.path("base")), tree(driver.path("clone")))


def test_with_selinux_the_root_of_a_layer_is_labelled(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A kernel without it keeps the attribute all the same, if root sets it.
    monkeypatch.setattr(home, "_SELINUX", str(tmp_path))
    driver = Driver(place)
    make(driver, "base")
    driver.create("clone", "base", mount_label=_LABEL)
    driver.create("empty", mount_label=_LABEL)
    for id in ("clone", "empty"):
        value = os.getxattr(driver.path(id), "security.selinux")
        assert value == _LABEL.encode() + b"\0"
    assert list(driver.changes("clone", "base")) == []  # it is the system's, not the layer's
