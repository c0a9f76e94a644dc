"""A copy of any stack is what a mounted overlayfs shows of it, and hard cases are in any layer."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer import copy_tree
from reflayer.copy import remove_tree, worker
from reflayer.walk.overlay import Marks
from reflayer.walk.stack import Stack
from tests import trees
from tests.archive.test_random_changes import Edit
from tests.copy.hard_cases import BTRFS_CASES, CASES, build
from tests.file_systems import require_root
from tests.random_stacks import STACKS, make_stack, overlay
from tests.random_trees import IDS, TIMES, Tree, make_tree
from tests.trees import Facts, assert_same, facts

_numbers = itertools.count()

pytestmark = pytest.mark.usefixtures("at_once")


def _facts(root: Path) -> dict[bytes, Facts]:
    """The facts, but for the count of links: overlayfs counts those, too, that it does not show."""
    return {path: fact._replace(links=0) for path, fact in facts(root).items()}


def _names(folder: int) -> list[bytes]:
    """The names in a folder of a mount that can be looked up.

    A whiteout in a folder that one layer alone has is listed, and not there.
    """
    return [
        os.fsencode(n)
        for n in os.listdir(folder)
        if os.access(n, os.F_OK, dir_fd=folder, follow_symlinks=False)
    ]


def _check(here: Path, layers: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of them is the mount of them, by one and by many, with the part in C and without."""
    before = [facts(layer) for layer in layers]
    with overlay(here, layers) as mount, monkeypatch.context() as patch:
        patch.setattr(trees, "_names", _names)
        expected = _facts(mount)
    one = copy_tree(layers, here / "one", workers=1)
    many = copy_tree(layers, here / "many", workers=3)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_clone_names", None)
        pure = copy_tree(layers, here / "pure", workers=2)
    for name in ("one", "many", "pure"):
        assert_same(expected, _facts(here / name))
    assert (one.entries, one.bytes, one.skipped) == (many.entries, many.bytes, many.skipped)
    assert one.entries == pure.entries
    assert sum(one.entries.values()) == len(expected)
    assert [facts(layer) for layer in layers] == before


_quick = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
def test_layers_that_the_kernel_made(
    file_system: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    place = file_system(kind)

    @_quick
    @given(STACKS)
    def check(made: tuple[Tree, list[list[Edit]]]) -> None:
        here = place / f"made-{next(_numbers)}"
        try:
            _check(here, make_stack(here, *made), monkeypatch)
        finally:
            remove_tree(here)

    check()


_metadata = st.tuples(IDS, IDS, st.integers(0, 0o7777), TIMES, TIMES)
_attributes = st.dictionaries(
    st.sampled_from(["trusted.a", "trusted.overlay.overlay.a", "trusted.overlay.origin"]),
    st.binary(max_size=9),
    max_size=1,
)
_opaque = st.dictionaries(
    st.just("trusted.overlay.opaque"), st.sampled_from([b"y", b"y", b"n"]), max_size=1
)
_few_names = st.sampled_from([b"a", b"b", b"c"])
_leaf = st.tuples(
    st.tuples(_metadata, _attributes),
    st.one_of(
        st.tuples(st.just("file"), st.binary(max_size=9)),
        st.tuples(st.just("symlink"), st.just(b"a")),
        st.tuples(st.just("fifo"), st.none()),
        st.tuples(st.just("twin"), st.integers(0, 9)),
        st.tuples(st.just("device"), st.just(True), st.just(0), st.integers(0, 1)),
    ),
)
_layer = st.recursive(
    st.dictionaries(_few_names, _leaf, max_size=3),
    lambda inner: st.dictionaries(
        _few_names,
        st.one_of(
            _leaf,
            st.tuples(st.tuples(_metadata, st.one_of(_attributes, _opaque, _opaque)), inner),
            st.tuples(st.tuples(_metadata, _attributes), inner),
        ),
        max_size=3,
    ),
    max_leaves=30,
)


def _without_forms(tree: Tree) -> Tree:
    """A tree that is none of a difference: overlayfs has its forms in the lowest layer, too."""
    kept: Tree = {}
    for name, ((metadata, _), content) in tree.items():
        if content != ("device", True, 0, 0):
            inner = _without_forms(content) if isinstance(content, dict) else content
            kept[name] = ((metadata, {}), inner)
    return kept


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_layers_in_which_all_meets_all(
    file_system: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    place = file_system(kind)

    @settings(_quick, max_examples=120)
    @given(st.lists(_layer, min_size=2, max_size=5))
    def check(stack: list[Tree]) -> None:
        here = place / f"meet-{next(_numbers)}"
        layers = [here / str(number) for number in range(len(stack))]
        try:
            for layer, tree in zip(layers, [*stack[:-1], _without_forms(stack[-1])], strict=True):
                layer.mkdir(parents=True)
                made: list[Any] = []
                make_tree(os.fsencode(layer), tree, made)
            _check(here, layers, monkeypatch)
        finally:
            remove_tree(here)

    check()


def _cases(place: Path) -> dict[str, Callable[[bytes], None]]:
    """Those that its file system holds, but for the one that takes seconds."""
    cases = CASES | BTRFS_CASES if place.parent.name == "btrfs" else dict(CASES)
    del cases["folders_nested_thousands_deep"]
    return cases


def _told(root: Path) -> dict[bytes, Facts]:
    return {
        path: fact._replace(holes=()) if b"never written" in path else fact
        for path, fact in facts(root, holes=True).items()
    }


def _escape(folder: Path, told: dict[bytes, Facts]) -> None:
    """Let a tree stand as a difference: each device 0:0 is a file that is marked, with its links.

    No more is to be escaped in the hard cases.
    """
    root = os.fsencode(folder)
    fd = os.open(folder, os.O_RDONLY | os.O_NOATIME)
    marks = Marks(fd)
    os.close(fd)
    for name, fact in told.items():
        if fact.type != stat.S_IFCHR or fact.device:
            continue
        path = os.path.join(root, name)
        os.unlink(path)
        if fact.twin != name:
            os.link(os.path.join(root, fact.twin), path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
            marks.set_device(path)
            os.chown(path, *fact.owner)
            for attribute, value in fact.xattrs.items():
                os.setxattr(path, attribute, value)
            os.chmod(path, fact.mode)
            os.utime(path, ns=(fact.atime or 0, fact.mtime))
        above = told[os.path.dirname(name) or b"."]
        os.utime(os.path.dirname(path), ns=(above.atime or 0, above.mtime))


@pytest.mark.parametrize("is_pure", [False, True])
def test_hard_cases_below_a_difference(
    place: Path, is_pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_pure:
        monkeypatch.setattr(worker, "_clone_names", None)
    cases = _cases(place)
    (place / "low").mkdir()
    build(os.fsencode(place / "low"), cases)
    for number, name in enumerate(sorted(cases)):
        if number % 2:
            (place / "top" / name).mkdir(parents=True)
            (place / "top" / name / "one more").touch()
    low, top = _told(place / "low"), _told(place / "top")

    report = copy_tree(Stack((bytes(place / "top"),), bytes(place / "low")), place / "dst")

    assert_same(low | top, _told(place / "dst"))
    assert_same(low, _told(place / "low"))
    assert sum(report.entries.values()) == len(low | top)
    assert report.skipped == {}


@pytest.mark.parametrize("is_pure", [False, True])
def test_hard_cases_as_a_difference(
    place: Path, is_pure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over themselves, so that the union is made of the upper ones, all of which hide others."""
    if is_pure:
        monkeypatch.setattr(worker, "_clone_names", None)
    cases = _cases(place)
    for layer in ("low", "top"):
        (place / layer).mkdir()
        build(os.fsencode(place / layer), cases)
    (place / "low/times/one more").touch()
    low, top = _told(place / "low"), _told(place / "top")
    _escape(place / "top", top)
    expected = low | top
    source = Stack((bytes(place / "top"),), bytes(place / "low"))
    methods = ["auto", "range", "stream", *["reflink"] * (place.parent.name == "xfs")]
    for method in methods if not is_pure else ["auto"]:
        report = copy_tree(source, place / method, method=method, workers=3)
        found = _told(place / method)
        assert_same(expected, found)
        assert sum(report.entries.values()) == len(expected)
        assert report.skipped == {}


def test_hard_cases_across_file_systems(place_on: Callable[[str], Path]) -> None:
    """Each layer on another, and the copy on one that shares blocks with the lowest."""
    cases = _cases(place_on("ext4"))
    for name in ("an_attribute_as_large_as_may_be", "many_attributes", "symbolic_links"):
        del cases[name]
    layers = [place_on(kind) / "layer" for kind in ("ext4", "tmpfs", "xfs")]
    for layer in layers:
        layer.mkdir()
        build(os.fsencode(layer), cases)
    for number, name in enumerate(sorted(cases)):
        for layer in layers[: number % 3]:
            remove_tree(layer / name)
    told = [facts(layer) for layer in layers]
    expected = told[2] | told[1] | told[0]
    for layer, fact in zip(layers[:2], told, strict=False):
        _escape(layer, fact)
    dst = place_on("xfs") / "dst"

    report = copy_tree(Stack(tuple(map(bytes, layers[:2])), bytes(layers[2])), dst, workers=3)

    assert_same(expected, facts(dst))
    assert report.method == "reflink"
    assert {"reflink", "stream"} <= report.bytes.keys()
