"""Trees are deleted whole, alone or by many workers, and nothing beside them."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.copy import remove_tree
from reflayer.errors import OperationError
from reflayer.walk.empty import _Emptied
from reflayer.workers import pool
from tests.file_systems import require_root


def plant(root: Path, folders: int = 200, files: int = 4) -> int:
    """A tree three folders deep; how many names it has, its own included."""
    names = 1
    for number in range(folders):
        folder = root / str(number % 7) / str(number % 11) / str(number)
        folder.mkdir(parents=True)
        for file in range(files):
            (folder / str(file)).touch()
    for _, below, inside in os.walk(root):
        names += len(below) + len(inside)
    return names


def test_a_tree_is_deleted_and_its_names_are_counted(place: Path) -> None:
    names = plant(place / "tree")
    assert remove_tree(place / "tree") == names
    assert list(place.iterdir()) == []


def test_a_tree_that_is_not_there_is_no_error(place: Path) -> None:
    assert remove_tree(place / "tree") == 0


def test_links_are_not_followed(place: Path) -> None:
    plant(place / "other", 3)
    (place / "tree/inner").mkdir(parents=True)
    (place / "tree/inner/link").symlink_to(place / "other")
    assert remove_tree(place / "tree") == 3
    assert len(list((place / "other").iterdir())) == 3
    (place / "link").symlink_to(place / "other")
    with pytest.raises(OperationError, match="link: open"):
        remove_tree(place / "link")


def test_a_tree_of_any_depth_is_deleted(place: Path) -> None:
    (place / "tree").mkdir()
    fd = os.open(place / "tree", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a-name-of-some-length", dir_fd=fd)
        below = os.open("a-name-of-some-length", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert remove_tree(place / "tree") == 1501


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_many_workers_delete_the_same_tree(
    place: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_ALONE", -1.0)
    plant(place / "tree", 600)
    names = sum(len(folders) + len(files) for _, folders, files in os.walk(place))
    assert remove_tree(place / "tree", workers=workers) == names
    assert list(place.iterdir()) == []


def test_the_names_of_a_folder_are_unlinked_by_one_worker_at_a_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_ALONE", -1.0)
    unlink, at_work, met, workers = _Emptied._unlink_files, set[int](), set[int](), set[int]()

    def watched(self: _Emptied, pause: Callable[[], object]) -> int:
        number = self.status.st_ino
        if number in at_work:
            met.add(number)
        at_work.add(number)
        workers.add(threading.get_ident())
        try:
            return unlink(self, pause)
        finally:
            at_work.discard(number)

    monkeypatch.setattr(_Emptied, "_unlink_files", watched)
    plant(place / "tree", 200, 4)
    for number in range(5000):
        (place / f"tree/{number}-file").touch()
    assert remove_tree(place / "tree", workers=2) > 5000
    assert (len(workers), met) == (2, set())


def test_many_workers_name_what_cannot_be_deleted(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    monkeypatch.setattr(pool, "_ALONE", -1.0)
    plant(place / "tree", 300)
    stays = place / "tree/3/3/3/mounted"
    (place / "mine").mkdir()
    (place / "mine/file").touch()
    stays.mkdir()
    subprocess.run(["mount", "--bind", place / "mine", stays], check=True)
    try:
        with pytest.raises(OperationError, match=r"tree/3/3/3/mounted: remove: .*unmount it"):
            remove_tree(place / "tree", workers=3)
    finally:
        subprocess.run(["umount", stays], check=True)
    assert (place / "mine/file").exists()
