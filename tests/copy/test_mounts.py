"""What is mounted inside the source stays out, unless it is asked for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reflayer.copy import copy_tree
from tests.trees import facts


@contextmanager
def _mounted(*arguments: str | Path) -> Iterator[None]:
    subprocess.run(["mount", *arguments], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", arguments[-1]], check=True)


@pytest.fixture
def place(place_on: Callable[[str], Path]) -> Path:
    return place_on("ext4")


@pytest.mark.parametrize("method", ["auto", "tar"])
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_an_empty_folder_stands_where_something_is_mounted(
    place: Path, kind: str, method: str
) -> None:
    point = place / "src/folder/mount point\n\\"
    point.mkdir(parents=True)
    (place / "outside").mkdir()
    (place / "outside/file").touch()
    arguments = ["-t", "tmpfs", "none"] if kind == "tmpfs" else ["--bind", str(place / "outside")]
    with _mounted(*arguments, point):
        (point / "inside").touch()

        report = copy_tree(place / "src", place / "dst", method=method)
        crossed = copy_tree(place / "src", place / "all", method=method, cross_mounts=True)
        before = facts(place / "src")

    assert report.skipped == {"mount": 1}
    assert report.entries == {"file": 0, "directory": 3}
    assert os.listdir(place / "dst/folder/mount point\n\\") == []
    assert crossed.skipped == {}
    assert facts(place / "all").keys() == before.keys()


@pytest.mark.parametrize("method", ["auto", "tar"])
def test_an_empty_file_stands_where_something_is_mounted_on_a_file(
    place: Path, method: str
) -> None:
    (place / "src").mkdir()
    for name in ("file", "null", "fifo"):
        (place / "src" / name).write_text("below")
    os.mkfifo(place / "src/was fifo")
    (place / "outside").write_text("outside")
    os.mkfifo(place / "a fifo")
    with (
        _mounted("--bind", place / "outside", place / "src/file"),
        _mounted("--bind", "/dev/null", place / "src/null"),
        _mounted("--bind", place / "a fifo", place / "src/fifo"),
        _mounted("--bind", place / "outside", place / "src/was fifo"),
    ):
        report = copy_tree(place / "src", place / "dst", method=method)
        crossed = copy_tree(place / "src", place / "all", method=method, cross_mounts=True)

    assert report.skipped == {"mount": 4}
    assert report.entries == {"file": 4, "directory": 1}
    assert all(told.size == 0 for told in facts(place / "dst").values())
    assert crossed.entries == {"file": 2, "directory": 1, "char": 1, "fifo": 1}
    assert (place / "all/was fifo").read_text() == "outside"


def test_a_mount_point_below_another_mount_is_only_a_folder(place: Path) -> None:
    (place / "below/folder").mkdir(parents=True)
    (place / "src/folder").mkdir(parents=True)
    (place / "src/folder/file").write_text("seen")
    (place / "top").mkdir()
    with (
        _mounted("--bind", place / "below", place / "top"),
        _mounted("-t", "tmpfs", "none", place / "top/folder"),
    ):
        subprocess.run(["mount", "--bind", place / "src", place / "top"], check=True)
        try:
            report = copy_tree(place / "top", place / "dst")
        finally:
            subprocess.run(["umount", place / "top"], check=True)

    assert report.skipped == {}
    assert (place / "dst/folder/file").read_text() == "seen"


def test_a_subvolume_inside_is_no_mount(place_on: Callable[[str], Path]) -> None:
    place = place_on("btrfs")
    (place / "src").mkdir()
    subprocess.run(["btrfs", "-q", "subvolume", "create", place / "src/nested"], check=True)
    (place / "src/nested/file").write_text("content")

    report = copy_tree(place / "src", place / "dst")

    assert report.skipped == {}
    assert (place / "dst/nested/file").read_text() == "content"
