"""A source that changes during the copy: an error that names what changed, never a loop."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reflayer import copy_tree
from reflayer.copy import CopyError, worker
from reflayer.copy.folder import Folder
from reflayer.copy.worker import _read_names
from reflayer.linux.names import native
from tests.trees import assert_same, facts


@pytest.fixture
def place(place_on: Callable[[str], Path]) -> Path:
    place = place_on("ext4")
    (place / "src/folder/inner").mkdir(parents=True)
    (place / "src/folder/file").write_bytes(b"x" * 5000)
    os.link(place / "src/folder/file", place / "src/folder/twin")
    (place / "src/folder/link").symlink_to("x")
    os.mkfifo(place / "src/folder/fifo")
    (place / "outside").mkdir()
    return place


@pytest.fixture(params=["in C", "in Python"] if native else ["in Python"])
def once_listed(
    place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., None]:
    """Do something after the listing of ``src/folder``, before any of its names is opened."""
    listing = {
        entry.name: (4 if entry.is_dir() else 8 if entry.is_file(follow_symlinks=False) else 10)
        for entry in os.scandir(place / "src/folder")
    }
    clone_names = worker._clone_names

    def set_up(change: Callable[[Path], object]) -> None:
        def read(scan: Iterator[os.DirEntry[str]]) -> list[tuple[int, bytes]]:
            names = _read_names(scan)
            if any(name == b"inner" for _, name in names):
                change(place / "src/folder")
            return names

        def clone(src: int, *arguments: Any) -> Any:
            *others, left = arguments
            if not left:
                if "inner" not in os.listdir(src):
                    return clone_names(src, *arguments)
                change(place / "src/folder")
                left = _dirents(listing)
            *made, left = clone_names(src, *others, left)
            return (*made, left or None)

        if request.param == "in C":
            monkeypatch.setattr(worker, "_clone_names", clone)
        else:
            monkeypatch.setattr(worker, "_clone_names", None)
            monkeypatch.setattr(worker, "_read_names", read)

    return set_up


def _dirents(types: dict[str, int]) -> bytes:
    """A listing as getdents64(2) gives it: inode, offset, length, type, name."""
    listing = b""
    for name, kind in types.items():
        size = (19 + len(name) + 8) // 8 * 8
        listing += struct.pack("=QqHB", 1, 0, size, kind) + name.encode().ljust(size - 19, b"\0")
    return listing


def _become(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return change


def _link(path: Path) -> None:
    path.symlink_to("/etc")


def _nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("file", _become("file", _nothing), "it vanished during the copy"),
        ("inner", _become("inner", _nothing), "it vanished during the copy"),
        ("link", _become("link", _nothing), "it vanished during the copy"),
        ("fifo", _become("fifo", _nothing), "it vanished during the copy"),
        ("file", _become("file", _link), "it became another type of file"),
        ("file", _become("file", os.mkfifo), "it became another type of file"),
        ("file", _become("file", os.mkdir), "it became another type of file"),
        ("inner", _become("inner", _link), "it became another type of file"),
        ("inner", _become("inner", Path.touch), "it became another type of file"),
        ("inner", _become("inner", os.mkfifo), "it became another type of file"),
        ("link", _become("link", Path.touch), "it became another type of file"),
        ("fifo", _become("fifo", os.mkdir), "it became another type of file"),
    ],
)
def test_a_name_that_vanishes_or_becomes_another_type(
    place: Path,
    once_listed: Callable[..., None],
    name: str,
    change: Callable[[Path], None],
    reason: str,
) -> None:
    once_listed(change)

    with pytest.raises(CopyError, match=reason) as caught:
        copy_tree(place / "src", place / "dst", workers=1)

    assert caught.value.path == str(place / "src/folder" / name)
    assert not (place / "dst").exists()
    assert os.listdir(place / "outside") == []


def test_a_folder_that_is_moved_while_it_is_copied_leads_nowhere_else(
    place_on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_on("xfs")
    enter = worker.Worker._enter
    path = place / "src"
    for level in range(100):
        path = path / f"{level}"
    path.mkdir(parents=True)
    (place / "outside").mkdir()
    (place / "outside/file").touch()
    before = facts(place / "outside")
    moved = False

    def enter_and_move(self: worker.Worker, parent: Folder, name: bytes) -> Folder:
        nonlocal moved
        folder = enter(self, parent, name)
        if name == b"99":  # the innermost folder: those far above are shut
            moved = True
            os.rename(place / "src/0/1/2/3", place / "outside/3")
        return folder

    monkeypatch.setattr(worker.Worker, "_enter", enter_and_move)

    with pytest.raises(CopyError, match="the folder was moved meanwhile"):
        copy_tree(place / "src", place / "dst", workers=1)

    assert moved
    assert not (place / "dst").exists()
    os.rename(place / "outside/3", place / "src/0/1/2/3")
    assert facts(place / "outside").keys() == before.keys()


def test_the_source_is_untouched_its_access_times_too(place: Path) -> None:
    for path in ("src/folder/file", "src/folder/inner", "src/folder", "src"):
        os.utime(place / path, ns=(1, 2))  # old enough for any mount option to renew it
    before = facts(place / "src")
    for method in ("auto", "range", "stream", "tar"):
        copy_tree(place / "src", place / method, method=method)
        assert_same(before, facts(place / "src"))
