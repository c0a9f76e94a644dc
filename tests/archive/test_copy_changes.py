"""What changed in a clone, as a difference: with the stack it is what the clone has become."""

from __future__ import annotations

import itertools
import mmap
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from reflayer.archive import untouched
from reflayer.archive.copy_changes import Copied, copy_changes
from reflayer.archive.join import join
from reflayer.archive.undo import undo
from reflayer.copy import copy_tree, remove_tree
from reflayer.walk.stack import Stack
from tests.archive.test_random_changes import EDITS, Edit, edit
from tests.archive.test_undo import CHANGES, KINDS, TOOLS, cloned, here, source, told
from tests.copy import hard_cases
from tests.file_systems import require, require_root
from tests.random_stacks import STACKS, make_stack
from tests.random_trees import TREES, Tree, make_tree
from tests.trees import assert_same

__all__ = ["here", "source"]
_numbers = itertools.count()


def check(
    clone: Path, layers: list[Path], at: int, paths: dict[bytes, int] | None = None
) -> tuple[Copied, Path]:
    """Copy what changed, and compare what it is with the stack; the difference."""
    upper = clone.with_name(f"upper-{next(_numbers)}")
    upper.mkdir()
    before = told(clone)
    stack = Stack(tuple(map(os.fsencode, layers[:-1])), os.fsencode(layers[-1]))
    copied = copy_changes(clone, stack, at, upper, paths=paths)
    assert_same(before, told(clone))
    if not (clone / "folders_nested_thousands_deep").exists():
        found = [clone, *clone.rglob("*")]
        folders = [path for path in found if not path.is_symlink() and path.is_dir()]
        there = {os.fsencode(path)[len(bytes(clone)) + 1 :]: path.stat().st_ino for path in folders}
        assert copied.paths == there
    if copied.is_same:
        assert not os.listdir(upper)
        return copied, upper
    fresh = clone.with_name("fresh")
    copy_tree(Stack((os.fsencode(upper), *stack.differences), stack.whole), fresh)
    whole = clone.with_name("whole")
    copy_tree(clone, whole)
    assert_same(told(whole), told(fresh))
    remove_tree(fresh)
    remove_tree(whole)
    return copied, upper


def let_loose(clone: Path) -> None:
    """Take away the flags that do not let it be removed."""
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", clone], check=False)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_copied(source: Path, change: str) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    exec(dedent(CHANGES[change]), {"c": clone, **TOOLS})
    try:
        copied, _ = check(clone, [source], at)
        assert copied.is_same == (change == "nothing")
    finally:
        let_loose(clone)


def test_no_more_is_copied_than_has_changed(source: Path) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    (clone / "a/b/c/file").write_text("changed")
    (clone / "other/b/file").unlink()
    copied, upper = check(clone, [source], at)
    found = {str(path.relative_to(upper)) for path in upper.rglob("*")}
    assert found == {"a", "a/b", "a/b/c", "a/b/c/file", "other", "other/b", "other/b/file"}
    assert stat.S_ISCHR((upper / "other/b/file").lstat().st_mode)
    assert (copied.names, copied.size) == (len(found), len("changed"))


def test_one_change_after_the_other_and_all_the_way_back(source: Path) -> None:
    clone = source.with_name("clone")
    at, layers = cloned(source, clone), [source]
    for change in (
        "a folder is renamed deep", "one of several is written", "folders change places",
        "a folder with a name of several moves", "a file replaces a folder", "all is deleted",
        "a folder is made",
    ):  # fmt: skip
        try:
            exec(dedent(CHANGES[change]), {"c": clone, **TOOLS})
        except FileNotFoundError:
            continue
        time.sleep(0.01)
        now = time.clock_gettime_ns(5)
        _, upper = check(clone, layers, at)
        at, layers = now, [upper, *layers]
        before = told(clone)
        (clone / "new").touch()
        shutil.rmtree(clone / "other", ignore_errors=True)
        undo(clone, layers, at)
        assert_same(before, told(clone))
        time.sleep(0.01)
        at = time.clock_gettime_ns(5)


def test_a_store_into_a_file_that_was_mapped_before_is_not_missed(source: Path) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    with open(clone / "a/file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 7
        time.sleep(0.01)
        now = time.clock_gettime_ns(5)
        _, upper = check(clone, [source], at)
        time.sleep(0.01)
        mapped[0] = 8
        copied, _ = check(clone, [upper, source], now)
        assert not copied.is_same


def test_the_hard_cases(here: Path) -> None:
    source, clone = here / "source", here / "clone"
    source.mkdir()
    (source / "old").mkdir()
    cases = dict(hard_cases.CASES)
    if here.parent.name != "xfs":
        del cases["a_tebibyte_of_nothing"]
    at = cloned(source, clone)
    hard_cases.build(os.fsencode(clone), cases)
    time.sleep(0.01)
    now = time.clock_gettime_ns(5)
    copied, upper = check(clone, [source], at)
    known = copied.paths
    for number, case in enumerate(sorted(clone.iterdir())):
        if number % 3 == 0:
            subprocess.run(["rm", "-rf", case], check=True)
        elif number % 3 == 1:
            case.rename(case.with_name(f"{case.name}-moved"))
    check(clone, [upper, source], now, known)


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_are_copied(file_system: Callable[[str], Path], kind: str) -> None:
    require_root()
    require("mount")
    place = file_system(kind)

    @settings(
        max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(STACKS, EDITS, EDITS)
    def try_it(stack: tuple[Tree, list[list[Edit]]], first: list[Edit], then: list[Edit]) -> None:
        folder = place / f"changes-{next(_numbers)}"
        clone = folder / "clone"
        try:
            folder.mkdir()
            layers = make_stack(folder / "stack", *stack)
            at = cloned(layers, clone)
            for one in first:
                edit(os.fsencode(clone), *one)
            time.sleep(0.01)
            now = time.clock_gettime_ns(5)
            copied, upper = check(clone, layers, at)
            for one in then:
                edit(os.fsencode(clone), *one)
            check(clone, layers if copied.is_same else [upper, *layers], now, copied.paths)
        finally:
            remove_tree(folder)

    try_it()


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_of_a_whole_layer_are_copied(
    file_system: Callable[[str], Path], kind: str
) -> None:
    require_root()
    place = file_system(kind)

    @settings(
        max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(TREES, EDITS)
    def try_it(tree: Tree, edits: list[Edit]) -> None:
        folder = place / f"changes-{next(_numbers)}"
        source, clone = folder / "source", folder / "clone"
        try:
            source.mkdir(parents=True)
            make_tree(os.fsencode(source), tree, [])
            at = cloned(source, clone)
            for one in edits:
                edit(os.fsencode(clone), *one)
            check(clone, [source], at)
        finally:
            remove_tree(folder)

    try_it()


@pytest.mark.parametrize("has_c", [True, False])
def test_folders_that_go_meanwhile_are_hidden(
    source: Path, monkeypatch: pytest.MonkeyPatch, has_c: bool
) -> None:
    clone = source.with_name("clone")
    (source / "kept/b").mkdir(parents=True)
    (source / "kept/b/file").touch()
    at = cloned(source, clone)
    if not has_c:
        monkeypatch.setattr(untouched, "CHANGED_NAMES", None)
    for path in ("a/b/new", "a/b/c/new", "other/b/new", "kept/b/file"):
        (clone / path).write_text("changed")
    (clone / "fresh/in/it").mkdir(parents=True)
    (clone / "fresh/file").touch()
    os.link(clone / "fresh/file", clone / "kept/twin")

    def look_first(*arguments: Any) -> None:
        untouched.look(*arguments)
        shutil.rmtree(clone / "a/b")
        shutil.rmtree(clone / "other/b")
        (clone / "other/b").touch()
        shutil.rmtree(clone / "fresh/in")

    monkeypatch.setattr("reflayer.archive.copy_changes.look", look_first)
    upper = source.with_name("upper")
    upper.mkdir()
    copy_changes(clone, source, at, upper)
    fresh = source.with_name("fresh")
    copy_tree([upper, source], fresh)
    expected = {**told(clone)}
    del expected[b"other/b"]  # the next one has it
    assert_same(expected, told(fresh))


def test_a_folder_that_goes_meanwhile_is_not_known_when_it_comes_back(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, away, upper = (source.with_name(name) for name in ("clone", "away", "upper"))
    at = cloned(source, clone)
    (clone / "new").touch()
    time.sleep(0.02)
    now = time.clock_gettime_ns(5)

    def look_first(*arguments: Any) -> None:
        untouched.look(*arguments)
        (clone / "a").rename(away)

    upper.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("reflayer.archive.copy_changes.look", look_first)
        copied = copy_changes(clone, source, at, upper)
    assert stat.S_ISCHR((upper / "a").lstat().st_mode)
    away.rename(clone / "a")
    check(clone, [upper, source], now, copied.paths)


@pytest.mark.parametrize("path", ["a", "a/b", "a/b/c"])
def test_what_was_in_a_folders_place_meanwhile_is_not_taken_for_it(
    source: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    clone, away, upper = (source.with_name(name) for name in ("clone", "away", "upper"))
    at = cloned(source, clone)
    (clone / path / "new").touch()
    (clone / "other/b/c").mkdir()
    time.sleep(0.02)
    now = time.clock_gettime_ns(5)

    def look_first(*arguments: Any) -> None:
        untouched.look(*arguments)
        (clone / "a").rename(away)
        (clone / "other").rename(clone / "a")

    upper.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("reflayer.archive.copy_changes.look", look_first)
        copied = copy_changes(clone, source, at, upper)
    (clone / "a").rename(clone / "other")
    away.rename(clone / "a")
    check(clone, [upper, source], now, copied.paths)


@pytest.mark.parametrize("kind", KINDS)
def test_random_differences_that_are_joined_are_what_they_were_together(
    file_system: Callable[[str], Path], kind: str
) -> None:
    require_root()
    require("mount")
    place = file_system(kind)

    @settings(
        max_examples=25, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(STACKS)
    def try_it(stack: tuple[Tree, list[list[Edit]]]) -> None:
        folder = place / f"changes-{next(_numbers)}"
        try:
            folder.mkdir()
            *differences, whole = layers = make_stack(folder / "stack", *stack)
            (folder / "joined").mkdir()
            join(differences, folder / "joined")
            for clone, of in ("before", layers), ("after", [folder / "joined", whole]):
                below = Stack(tuple(map(os.fsencode, of[:-1])), os.fsencode(of[-1]))
                copy_tree(below, folder / clone)
            assert_same(told(folder / "before"), told(folder / "after"))
        finally:
            remove_tree(folder)

    try_it()


def test_hard_cases_are_joined(place_on: Callable[[str], Path]) -> None:
    require_root()
    here = place_on("xfs")
    lower, upper, joined = (here / name for name in ("lower", "upper", "joined"))
    cases = dict(hard_cases.CASES)
    del cases["folders_nested_thousands_deep"]
    for folder in (lower, upper):
        folder.mkdir()
        hard_cases.build(os.fsencode(folder), cases)
        cases = dict([*cases.items()][::2])
    joined.mkdir()
    (here / "whole").mkdir()
    join([upper, lower], joined)
    for name, of in ("before", (upper, lower)), ("after", (joined,)):
        copy_tree(Stack(tuple(map(os.fsencode, of)), os.fsencode(here / "whole")), here / name)
    assert_same(told(here / "before"), told(here / "after"))
