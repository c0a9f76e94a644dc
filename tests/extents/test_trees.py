"""What one tree takes, and who shares with whom."""

from __future__ import annotations

import os
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.extents import TreeUsage, measure_trees, share_out

_PAGE = 4096


def measure_tree(path: Path) -> TreeUsage:
    (usage,) = measure_trees([path])
    return usage


def _du(path: Path) -> int:
    told = subprocess.run(["du", "-s", "-B1", path], capture_output=True, check=True).stdout
    return int(told.split()[0])


def test_a_tree_is_counted_as_du_counts_it(place: Path) -> None:
    (place / "folder").mkdir()
    (place / "folder/file").write_bytes(os.urandom(50_000))
    os.link(place / "folder/file", place / "folder/again")
    (place / "link").symlink_to("a" * 200)
    os.mkfifo(place / "fifo")
    with open(place / "hole", "wb") as hole:
        hole.truncate(1 << 30)
    os.sync()
    usage = measure_tree(place)
    assert usage.allocated == _du(place)
    assert usage.inodes == 6
    assert usage.size == 50_000 + (1 << 30)
    assert (usage.untold, usage.unread, list(usage.shared)) == (0, 0, [])


def test_what_has_other_names_outside_is_not_its_own(place: Path) -> None:
    tree = place / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(50_000))
    assert measure_tree(tree).own > 50_000
    os.link(tree / "file", place / "outside")
    assert measure_tree(tree).own < 20_000
    assert measure_tree(tree).allocated > 50_000


def test_no_link_is_followed_and_no_mount_entered(place: Path) -> None:
    tree, other = place / "tree", place / "other"
    for folder in (tree, other, tree / "mounted"):
        folder.mkdir()
    (other / "large").write_bytes(os.urandom(100_000))
    (tree / "link").symlink_to(other)
    subprocess.run(["mount", "--bind", other, tree / "mounted"], check=True)
    try:
        assert measure_tree(tree).size == 0
    finally:
        subprocess.run(["umount", tree / "mounted"], check=True)


def test_a_tree_deeper_than_any_path_is_measured(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=fd)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    assert measure_tree(place).inodes == 62


def test_what_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert measure_tree(tmp_path / "nothing").inodes == 0


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_clone_has_what_was_written_since(kind: str, place_on: Callable[[str], Path]) -> None:
    place = place_on(kind)
    parent, child, third = place / "parent", place / "child", place / "third"
    parent.mkdir()
    (parent / "old").write_bytes(os.urandom(1_000_000))
    subprocess.run(["cp", "-a", "--reflink=always", parent, child], check=True)
    (child / "new").write_bytes(os.urandom(500_000))
    own = measure_tree(child).own
    assert 500_000 <= own < 520_000
    subprocess.run(["cp", "-a", "--reflink=always", child, third], check=True)
    assert measure_tree(child).own < 20_000
    shared = share_out([measure_tree(parent), measure_tree(child)])
    assert 1_000_000 <= shared[2 | 4] < 1_020_000
    assert 500_000 <= shared[1 | 4] < 520_000


def _usage(places: list[tuple[int, int]]) -> TreeUsage:
    flat = [number for place in places for number in place]
    return TreeUsage(0, 0, 0, 0, 0, array("Q", flat), array("Q"), 0)


_PLACES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=8)


@given(st.lists(_PLACES, max_size=4))
def test_every_shared_byte_is_shared_out_once(trees: list[list[tuple[int, int]]]) -> None:
    has: dict[int, set[int]] = {}
    for number, places in enumerate(trees):
        for start, length in places:
            for byte in range(start, start + length):
                has.setdefault(byte, set()).add(number)
    totals = share_out([_usage(places) for places in trees])
    assert sum(totals.values()) == len(has)
    for number in range(len(trees)):
        # Whoever has a byte is among its owners.
        told = sum(size for owners, size in totals.items() if owners & 2 << number)
        assert told >= sum(1 for owners in has.values() if number in owners)


def test_the_same_blocks_belong_to_all_and_single_ones_to_others_too() -> None:
    both = [(0, _PAGE), (10 * _PAGE, 2 * _PAGE)]
    one = _usage([*both, (20 * _PAGE, _PAGE)])
    two = _usage(both)
    assert share_out([one, two]) == {2 | 4: 3 * _PAGE, 2 | 1: _PAGE}


def test_what_a_tree_has_twice_needs_no_other_owner() -> None:
    assert share_out([_usage([(0, _PAGE), (0, _PAGE)])]) == {2: _PAGE}
