"""Cases of ``create --size``, for a kernel with project quotas: ``test_quota`` runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflayer.errors import QuotaError
from reflayer.linux.project_quota import set_project
from reflayer.store import Store
from tests.quotas import writable
from tests.store.stores import reflayer

_MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root file system of 5 MiB."""
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "large").write_bytes(os.urandom(5 * _MIB))
    return folder


def test_a_container_takes_its_size_and_no_more(tmp_path: Path, folder: Path) -> None:
    store = Store(tmp_path / "store")
    limited = store.create(f"rootfs:{folder}", size=20 * _MIB)
    free = store.create(f"rootfs:{folder}")
    assert 13 <= writable(limited.path) <= 15
    assert writable(free.path) == 64
    changes = [change.path for change in store.changes(limited.name)]
    assert changes == ["/written"]


def test_one_with_a_size_is_none_of_those_that_are_ready(tmp_path: Path, folder: Path) -> None:
    store = Store(tmp_path / "store")
    store.create(f"rootfs:{folder}", name="first")
    store.warm(store.container("first").image_id, 1)
    ready = {one.ready for one in store.spares()}
    limited = store.create(f"rootfs:{folder}", size=20 * _MIB)
    assert 13 <= writable(limited.path) <= 15
    assert {one.ready for one in store.spares()} == ready


def test_an_image_that_is_larger_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "store"
    done = reflayer(root, "create", "--size=3M", "--name=small", f"rootfs:{folder}")
    assert done.returncode == 1
    assert "large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert Store(root).containers() == []


def test_a_folder_of_a_project_has_none(tmp_path: Path, folder: Path) -> None:
    store = Store(tmp_path / "store")
    store.create(f"rootfs:{folder}")
    fd = os.open(f"{tmp_path}/store/layers/tmp", os.O_RDONLY)
    set_project(fd, 42)
    os.close(fd)
    with pytest.raises(QuotaError, match="project 42"):
        store.create(f"rootfs:{folder}", size=_MIB)
