"""Every hard case comes out the same, on every file system, by every method, by any hands."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import copy_tree
from tests.copy.hard_cases import ACCESS, BTRFS_CASES, CASES, SOME_ACL, build, write
from tests.file_systems import require
from tests.trees import Facts, assert_same, facts

_METHODS = {"xfs": "reflink", "btrfs": "reflink", "ext4": "range", "tmpfs": "range"}


def _all_cases(place: Path) -> dict[str, Callable[[bytes], None]]:
    """Those that its file system holds, but for the one that takes seconds."""
    cases = CASES | BTRFS_CASES if place.parent.name == "btrfs" else dict(CASES)
    del cases["folders_nested_thousands_deep"]
    return cases


def _told(root: Path) -> dict[bytes, Facts]:
    """The facts of a tree of hard cases, with the holes that do not depend on what is cached."""
    return {
        path: fact._replace(holes=()) if b"never written" in path else fact
        for path, fact in facts(root, holes=True).items()
    }


def _tar_can_hold(told: dict[bytes, Facts]) -> dict[bytes, Facts]:
    return {path: fact for path, fact in told.items() if fact.type != stat.S_IFSOCK}


@pytest.mark.parametrize("case", CASES)
def test_a_hard_case_is_kept(place: Path, case: str) -> None:
    (place / "src").mkdir()
    CASES[case](os.fsencode(place / "src"))
    before = _told(place / "src")

    copy_tree(place / "src", place / "dst", workers=1)

    assert_same(before, _told(place / "dst"))
    assert_same(before, _told(place / "src"))


@pytest.mark.parametrize("case", BTRFS_CASES)
def test_a_hard_case_of_btrfs_is_kept(place_on: Callable[[str], Path], case: str) -> None:
    require("btrfs")
    place = place_on("btrfs")
    (place / "src").mkdir()
    BTRFS_CASES[case](os.fsencode(place / "src"))
    before = _told(place / "src")

    copy_tree(place / "src", place / "dst", workers=1)

    assert_same(before, _told(place / "dst"))


@pytest.mark.usefixtures("at_once")
def test_all_hard_cases_together_by_every_method_and_any_hands(place: Path) -> None:
    (place / "src").mkdir()
    build(os.fsencode(place / "src"), _all_cases(place))
    before = _told(place / "src")
    kind = place.parent.name
    methods = (
        ["auto", "range", "stream"] if kind != "xfs" else ["auto", "reflink", "range", "stream"]
    )

    for method in methods:
        report = copy_tree(place / "src", place / method, method=method, workers=3)
        assert_same(before, _told(place / method))
        assert report.method == (_METHODS[kind] if method == "auto" else method)
        assert sum(report.entries.values()) == len(before)
        assert report.skipped == {}
    assert_same(before, _told(place / "src"))


def test_all_hard_cases_by_tar_but_sockets(place: Path) -> None:
    (place / "src").mkdir()
    build(os.fsencode(place / "src"), _all_cases(place))
    before = _told(place / "src")

    report = copy_tree(place / "src", place / "dst", method="tar")

    held = _tar_can_hold(before)
    assert_same(held, _told(place / "dst"))
    assert report.method == "tar"
    assert report.skipped == {"socket": len(before) - len(held)}
    assert sum(report.entries.values()) == len(held)


def test_what_a_layer_may_not_have_is_kept_by_tar(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names, headers and sparse maps of any length, and zeros that are no hole."""
    for limit in ("tar_header._MOST_SPANS", "tar_reader._LONGEST_NAME"):
        monkeypatch.setattr(f"reflayer.archive.{limit}", 100)
    (place / "src").mkdir()
    folder = os.fsencode(place / "src")
    CASES["folders_nested_thousands_deep"](folder)
    CASES["a_file_of_many_holes"](folder)
    write(folder + b"/zeros", bytes(1 << 20))
    if place.parent.name == "xfs":  # the others have no room for them
        for number in range(20):
            os.setxattr(folder + b"/file", f"user.{number}", os.urandom(60_000))
    before = _told(place / "src")

    copy_tree(place / "src", place / "dst", method="tar")

    assert_same(before, _told(place / "dst"))


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        *(("xfs", "ext4"), ("ext4", "tmpfs"), ("btrfs", "xfs"), ("tmpfs", "btrfs")),
        *(("xfs", "btrfs"), ("tmpfs", "xfs"), ("ext4", "btrfs")),
    ],
)
@pytest.mark.usefixtures("at_once")
def test_all_hard_cases_across_file_systems(
    place_on: Callable[[str], Path], src: str, dst: str
) -> None:
    here, there = place_on(src), place_on(dst)
    (here / "src").mkdir()
    cases = _all_cases(here)
    for name in (*_TOO_LARGE.get(dst, ()), *BTRFS_CASES):
        cases.pop(name, None)
    build(os.fsencode(here / "src"), cases)
    before = _told(here / "src")

    report = copy_tree(here / "src", there / "dst", workers=3)

    assert_same(before, _told(there / "dst"))
    assert report.method == "stream"


# What one file system holds and another does not: the size of an attribute, of a link's target.
_TOO_LARGE = {
    "ext4": ("an_attribute_as_large_as_may_be", "many_attributes"),
    "btrfs": ("an_attribute_as_large_as_may_be",),
    "xfs": ("symbolic_links",),
}


def test_lists_of_xfs_are_no_stray_attributes_elsewhere(place_on: Callable[[str], Path]) -> None:
    here, there = place_on("xfs"), place_on("ext4")
    (here / "src").mkdir()
    os.setxattr(here / "src", ACCESS, SOME_ACL)

    copy_tree(here / "src", there / "dst")

    assert os.listxattr(there / "dst") == [ACCESS]


def test_times_of_links_are_kept(place: Path) -> None:
    (place / "src").mkdir()
    (place / "src/link").symlink_to("nowhere")
    os.utime(place / "src/link", ns=(-1, 4_102_444_800_123_456_789), follow_symlinks=False)

    copy_tree(place / "src", place / "dst")

    status = os.lstat(place / "dst/link")
    assert (status.st_atime_ns, status.st_mtime_ns) == (-1, 4_102_444_800_123_456_789)


@pytest.mark.skipif("REFLAYER_SLOW" not in os.environ, reason="set REFLAYER_SLOW to run it")
def test_a_folder_of_a_million_names(place_on: Callable[[str], Path]) -> None:
    place = place_on("tmpfs")
    (place / "src").mkdir()
    for number in range(1_000_000):
        os.mknod(place / f"src/{number}")
    started = time.monotonic()

    report = copy_tree(place / "src", place / "dst")

    assert report.entries == {"file": 1_000_000, "directory": 1}
    assert sum(1 for _ in os.scandir(place / "dst")) == 1_000_000
    print(f"{time.monotonic() - started:.1f} s")
