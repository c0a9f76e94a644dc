"""What changed between two trees is told as Docker tells it, and cannot be hidden."""

from __future__ import annotations

import io
import mmap
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.archive import changes, pack_layer
from reflayer.copy import copy_tree
from reflayer.errors import OperationError
from reflayer.linux.fiemap import share_all_data
from tests.file_systems import require_root


@pytest.fixture
def parent(place: Path) -> Path:
    """A tree on each file system in turn."""
    return _fill(place / "parent")


def _fill(root: Path) -> Path:
    (root / "etc/deep/er").mkdir(parents=True)
    (root / "etc/deep/er/file").write_bytes(b"x" * 10_000)
    (root / "etc/passwd").write_bytes(b"root")
    (root / "link").symlink_to("etc")
    (root / "empty").mkdir()
    return root


def _clone(parent: Path) -> Path:
    clone = parent.parent / "clone"
    copy_tree(parent, clone)
    return clone


def _told(clone: Path, parent: Path | None, cloned: float | None = None) -> list[str]:
    told = changes(clone, parent, cloned=cloned)
    return [f"{change.kind} {os.fsdecode(change.path)}" for change in told]


def _keep_times(path: Path, do: Callable[[], object]) -> None:
    status = path.stat()
    do()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_untouched_clone_has_no_changes(parent: Path) -> None:
    assert _told(_clone(parent), parent) == []


def test_changes_come_in_the_order_of_a_walk_with_the_folders_they_are_in(parent: Path) -> None:
    clone = _clone(parent)
    (clone / "etc/deep/er/new").touch()
    (clone / "etc/deep-").touch()
    (clone / "etc/passwd").unlink()
    (clone / "link").unlink()
    (clone / "link").mkdir()
    (clone / "link/inside").touch()
    assert _told(clone, parent) == [
        "C /etc",
        "C /etc/deep",
        "C /etc/deep/er",
        "A /etc/deep/er/new",
        "A /etc/deep-",
        "D /etc/passwd",
        "C /link",
        "A /link/inside",
    ]


def test_of_a_deleted_folder_its_content_is_not_told(parent: Path) -> None:
    clone = _clone(parent)
    (clone / "etc/deep/er/file").unlink()
    (clone / "etc/deep/er").rmdir()
    (clone / "etc/deep").rmdir()
    assert _told(clone, parent) == ["C /etc", "D /etc/deep"]


def test_without_a_parent_all_is_added(parent: Path) -> None:
    assert _told(parent, None)[:3] == ["A /empty", "A /etc", "A /etc/deep"]


def test_the_root_itself_is_not_told(parent: Path) -> None:
    clone = _clone(parent)
    clone.chmod(0o700)
    assert _told(clone, parent) == []


def test_other_bytes_of_the_same_size_and_time_are_found(parent: Path) -> None:
    clone = _clone(parent)
    file = clone / "etc/deep/er/file"

    def overwrite() -> None:
        with open(file, "r+b") as opened:
            opened.seek(9_999)
            opened.write(b"y")

    _keep_times(file, overwrite)  # nothing is written out: only the page cache knows
    assert _told(clone, parent)[-1] == "C /etc/deep/er/file"


def test_a_write_through_a_mapping_is_found(parent: Path) -> None:
    clone = _clone(parent)
    file = clone / "etc/deep/er/file"

    def overwrite() -> None:
        with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
            mapped[5000] = 0

    _keep_times(file, overwrite)
    assert _told(clone, parent)[-1] == "C /etc/deep/er/file"


def test_an_attribute_is_found(parent: Path) -> None:
    clone = _clone(parent)
    for name in ("link", "empty"):
        os.setxattr(clone / name, "trusted.a", b"", follow_symlinks=False)
    assert _told(clone, parent) == ["C /empty", "C /link"]


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_knowing_when_it_was_cloned_hides_no_change(
    place_on: Callable[[str], Path], kind: str
) -> None:
    """All inodes have ctimes of the cloning; the folders that lead to them have not."""
    parent = place_on(kind) / "parent"
    for folder, letter in (("one", b"1"), ("two", b"2")):
        (parent / folder / "inner").mkdir(parents=True)
        (parent / folder / "inner/file").write_bytes(letter)
        for path in (f"{folder}/inner/file", f"{folder}/inner", folder):
            os.utime(parent / path, (0, 0))
    clone = _clone(parent)
    time.sleep(0.05)
    cloned = time.time()
    assert _told(clone, parent, cloned) == []
    (clone / "one").rename(clone / "three")
    (clone / "two").rename(clone / "one")
    (clone / "three").rename(clone / "two")
    for folder in ("one", "two"):
        os.utime(clone / folder, (0, 0))
    assert _told(clone, parent, cloned) == _told(clone, parent)
    assert "C /one/inner/file" in _told(clone, parent, cloned)


def test_names_of_one_inode_stay_together_when_the_folder_of_one_is_moved(
    place_on: Callable[[str], Path],
) -> None:
    """The move leaves no trace on the inode, nor on the folder of its other name."""
    parent = place_on("xfs") / "parent"
    for folder in ("one", "two"):
        (parent / folder).mkdir(parents=True)
    (parent / "one/name").write_bytes(b"content")
    os.link(parent / "one/name", parent / "two/other")
    time.sleep(0.05)
    clone = _clone(parent)
    time.sleep(0.05)
    cloned = time.time()
    (clone / "two").rename(clone / "zoo")
    layer = b"".join(pack_layer(clone, parent, cloned=cloned))
    assert layer == b"".join(pack_layer(clone, parent))
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        assert archive.getmember("zoo/other").linkname == "one/name"


def test_what_is_mounted_stays_out(place_on: Callable[[str], Path]) -> None:
    require_root()
    parent = _fill(place_on("xfs") / "parent")
    clone = _clone(parent)
    subprocess.run(["mount", "--bind", clone / "etc", clone / "empty"], check=True)
    try:
        assert _told(clone, parent) == []
    finally:
        subprocess.run(["umount", clone / "empty"], check=True)


def test_a_tree_of_any_depth(place_on: Callable[[str], Path]) -> None:
    """More folders than stay open, changed at both ends, and as many added in the middle."""
    parent = place_on("xfs") / "parent"
    deep = parent.joinpath(*["d"] * 150)
    deep.mkdir(parents=True)
    clone = _clone(parent)
    clone.joinpath(*["d"] * 100, *["e"] * 150).mkdir(parents=True)
    clone.joinpath(*["d"] * 150, "last").touch()
    clone.joinpath(*["d"] * 20, "e").touch()
    clone.joinpath("z").touch()
    open_before = len(os.listdir("/proc/self/fd"))
    told = _told(clone, parent)
    assert len(told) == 150 + 150 + 3
    assert [told[-1], told[-2]] == ["A /z", "A /" + "d/" * 20 + "e"]
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for pair in ((tmp_path / "nowhere", tmp_path), (tmp_path, tmp_path / "nowhere")):
        with pytest.raises(OperationError, match=r"/nowhere: open: No such file"):
            list(changes(*pair))
    assert len(os.listdir("/proc/self/fd")) == before


def test_extents_tell_what_is_shared(place_on: Callable[[str], Path]) -> None:
    place = place_on("xfs")
    written, one, other = place / "written", place / "one", place / "other"
    with open(written, "wb") as file:
        for number in range(60):  # more extents than one answer holds
            file.seek(number * 65536)
            file.write(b"x" * 4096)
    for copied, copy in ((written, one), (one, other)):  # XFS keeps room between the first's
        subprocess.run(["cp", "--reflink=always", copied, copy], check=True)

    def is_shared() -> bool:
        with open(one, "rb") as left, open(other, "rb") as right:
            return share_all_data(left.fileno(), right.fileno())

    assert is_shared()
    with open(other, "r+b") as changed:
        changed.seek(59 * 65536)
        changed.write(b"y")
        changed.flush()
        assert not is_shared()
