"""What is mounted inside the source stays out, unless it is asked for."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reflayer import copy_tree
from reflayer.copy import CopyError, remove_tree
from reflayer.errors import OperationError
from reflayer.extents import measure_trees
from tests.file_systems import shut_mount
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


@pytest.mark.parametrize("method", ["auto", "tar"])
def test_a_mount_point_below_another_mount_is_only_a_folder(place: Path, method: str) -> None:
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
            report = copy_tree(place / "top", place / "dst", method=method)
        finally:
            subprocess.run(["umount", place / "top"], check=True)

    assert report.skipped == {}
    assert (place / "dst/folder/file").read_text() == "seen"


@pytest.mark.parametrize("method", ["auto", "tar"])
def test_a_subvolume_inside_is_no_mount(place_on: Callable[[str], Path], method: str) -> None:
    place = place_on("btrfs")
    (place / "src").mkdir()
    subprocess.run(["btrfs", "-q", "subvolume", "create", place / "src/nested"], check=True)
    (place / "src/nested/file").write_text("content")

    report = copy_tree(place / "src", place / "dst", method=method)

    assert report.skipped == {}
    assert (place / "dst/nested/file").read_text() == "content"


@pytest.mark.parametrize("method", ["auto", "tar"])
@pytest.mark.parametrize("kind", ["dead", "foreign"])
@pytest.mark.parametrize("on", ["folder", "file"])
def test_what_is_left_out_need_not_be_open_to_anybody(
    place: Path, on: str, kind: str, method: str
) -> None:
    point = place / "src/above/mounted"
    point.parent.mkdir(parents=True)
    point.mkdir() if on == "folder" else point.touch()
    (place / "src/above/file").write_text("content")
    os.chown(point.parent, 1000, 1000)
    with shut_mount(point, kind):
        report = copy_tree(place / "src", place / "dst", method=method)
        with pytest.raises(CopyError, match="above/mounted"):
            copy_tree(place / "src", place / "all", method=method, cross_mounts=True)
        (usage,) = measure_trees([place / "src"])

    assert report.skipped == {"mount": 1}
    told = facts(place / "dst")
    assert told.keys() == facts(place / "src").keys()
    found = told[b"above/mounted"]
    expected = (stat.S_IFDIR, 0o755) if on == "folder" else (stat.S_IFREG, 0o644)
    assert (found.type, found.mode, found.owner) == (*expected, (1000, 1000))
    assert usage.unread == 0


@pytest.mark.parametrize("method", ["auto", "tar"])
def test_a_destination_on_a_mount_inside_the_source_is_not_in_the_copy(
    place: Path, method: str
) -> None:
    (place / "src/mounted").mkdir(parents=True)
    (place / "src/file").write_text("content")
    with _mounted("-t", "tmpfs", "none", place / "src/mounted"):
        for dst in ("mounted/new", "mounted/more/new"):
            (place / "src" / dst).parent.mkdir(exist_ok=True)
            copy_tree(place / "src", place / "src" / dst, method=method)
            assert sorted(os.listdir(place / "src" / dst)) == ["file", "mounted"]
            assert os.listdir(place / "src" / dst / "mounted") == []

        with pytest.raises(CopyError, match="the destination is inside the source"):
            copy_tree(place / "src", place / "src/mounted/all", method=method, cross_mounts=True)


def test_a_removal_is_refused_before_anything_is_gone(place: Path) -> None:
    (place / "tree/b").mkdir(parents=True)
    (place / "tree/a").touch()
    (place / "tree/b/file").touch()
    before = facts(place / "tree")
    with (
        _mounted("--bind", place / "tree/a", place / "tree/b/file"),
        pytest.raises(OperationError, match=r"tree/b/file: remove: .*unmount it") as caught,
    ):
        remove_tree(place / "tree")

    assert caught.value.errno == errno.EBUSY
    assert facts(place / "tree") == before
