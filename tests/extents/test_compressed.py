"""Compressed data on btrfs counts as it takes, held against what the file system frees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflayer.extents import share_out
from reflayer.extents.measure import on_disk
from reflayer.linux.fiemap import ENCODED, SHARED
from tests.extents.test_trees import measure_tree
from tests.file_systems import mounted, require

_MB = 1_000_000
_NEAR = 400_000  # bytes that btrfs's trees may change by
_TELL = """
import sys
from reflayer.extents import measure_trees
print(measure_trees(sys.argv[1:])[0].own)
"""


@pytest.fixture(scope="module")
def compressing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs that compresses."""
    folder = tmp_path_factory.mktemp("compressing")
    with mounted("btrfs", folder, 512 << 20, options="loop,compress=zstd") as place:
        yield place


@pytest.fixture
def tree(compressing: Path) -> Iterator[Path]:
    """A tree with 12 MB in hexadecimal digits, which compress to half of it, and 2 MB of noise."""
    tree = compressing / "tree"
    tree.mkdir()
    (tree / "digits").write_bytes(os.urandom(6 * _MB).hex().encode())
    (tree / "noise").write_bytes(os.urandom(2 * _MB))
    with open(tree / "sparse", "wb") as file:
        file.seek(5 * _MB)
        file.write(b"0" * _MB)
    yield tree
    for one in compressing.iterdir():
        shutil.rmtree(one)


def used(place: Path) -> int:
    """Bytes of data that the file system has."""
    subprocess.run(["sync", "-f", place], check=True)
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def freed_by_removal(tree: Path) -> int:
    before = used(tree.parent)
    shutil.rmtree(tree)
    return before - used(tree.parent)


def test_a_tree_takes_what_its_removal_frees(tree: Path) -> None:
    told = measure_tree(tree)
    assert 8 * _MB < told.own < 11 * _MB
    assert told.allocated > 14 * _MB  # as du shows it
    assert abs(told.own - freed_by_removal(tree)) < _NEAR


def test_clones_share_what_they_take(tree: Path) -> None:
    clone = tree.with_name("clone")
    subprocess.run(["cp", "-a", "--reflink=always", tree, clone], check=True)
    with open(clone / "digits", "r+b") as file:
        file.seek(3 * _MB)
        file.write(os.urandom(1 * _MB).hex().encode())
    told = measure_tree(tree), measure_tree(clone)
    groups = share_out(told)
    both, single = 2 | 4, 4
    assert 6 * _MB < groups[both] < 10 * _MB
    own = told[1].own + groups.get(single, 0)
    assert abs(own - freed_by_removal(clone)) < _NEAR
    assert abs(measure_tree(tree).own - freed_by_removal(tree)) < _NEAR


def test_who_may_not_know_is_told_as_it_reads(tree: Path) -> None:
    require("setpriv")
    own = subprocess.run(
        ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", _TELL, tree],
        capture_output=True,
        check=True,
    ).stdout
    assert int(own) > 14 * _MB > measure_tree(tree).own


def test_an_extent_of_which_a_file_has_two_parts_takes_its_place_once() -> None:
    flags = ENCODED | SHARED
    parts = [(0, 700, 40, flags), (40, 900, 10, SHARED), (50, 700, 50, flags)]
    compressed = [(0, 700, 20), (50, 700, 20)]
    assert list(on_disk(parts, compressed)) == [
        (0, 700, 20, flags),
        (40, 900, 10, SHARED),
        (50, 700, 0, flags),
    ]


def test_what_was_told_as_one_extent_is_taken_apart() -> None:
    assert list(on_disk([(0, 700, 80, ENCODED)], [(0, 700, 20), (40, 740, 30)])) == [
        (0, 700, 20, ENCODED),
        (40, 740, 30, ENCODED),
    ]
