"""A stack is looked at as the tree that a mounted overlayfs shows of the same layers."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from reflayer.copy import remove_tree
from reflayer.walk.overlay import WHITEOUT_MODE
from reflayer.walk.stack import Stack, Union, UnionPaths, stack_of
from tests.archive.test_random_changes import Edit
from tests.file_systems import require_root
from tests.random_stacks import STACKS, make_stack, overlay
from tests.random_trees import Tree

_numbers = itertools.count()


def told(folder: Union, *, by_names: bool) -> dict[bytes, tuple[int, ...]]:
    """All in an open folder of a stack, found in it by its names, or by those of its layers."""
    found = {}
    names = {os.fsencode(name) for part in folder.parts for name in os.listdir(part.fd)}
    if by_names:
        shown = folder.names()
        assert shown.keys() <= names
        for name, part in shown.items():
            assert folder.find(name) == (part, folder.find(name)[1])  # type: ignore[index]
    for name in names:
        entry = folder.find(name)
        if entry is None:
            assert not by_names or name not in shown
            with pytest.raises(FileNotFoundError):
                folder.enter(name)
            continue
        found[name] = facts(entry[1])
        if stat.S_ISDIR(entry[1].st_mode):
            with folder.enter(name) as inside:
                for path, fact in told(inside, by_names=by_names).items():
                    found[name + b"/" + path] = fact
        else:
            with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
                folder.enter(name)
    return found


def facts(status: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return (status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, status.st_rdev)


def shown(mount: bytes) -> dict[bytes, tuple[int, ...]]:
    found = {}
    for folder, folders, files in os.walk(mount):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, mount)] = facts(os.lstat(path))
    return found


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
def test_a_random_stack_is_the_tree_that_the_kernel_shows(
    file_system: Callable[[str], Path], kind: str
) -> None:
    require_root()
    place = file_system(kind)

    @settings(max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(STACKS)
    def check(made: tuple[Tree, list[list[Edit]]]) -> None:
        here = place / f"union-{next(_numbers)}"
        try:
            layers = make_stack(here, *made)
            with overlay(here, layers) as mount:
                expected = shown(bytes(mount))
            for by_names in (False, True):
                with Union.root(stack_of(layers)) as root:
                    assert told(root, by_names=by_names) == expected
        finally:
            remove_tree(here)

    check()


@pytest.fixture
def stack(base: Path) -> Stack:
    """Three layers with a folder that the lowest has under an opaque one, and a file in between."""
    require_root()
    for name in ("1/folder/low", "1/kind/low", "1/opaque/low", "2/folder", "2/opaque/mid",
                 "3/folder/top", "3/kind", "3/opaque"):  # fmt: skip
        (base / name).mkdir(parents=True)
    (base / "2/kind").touch()
    (base / "2/only").touch()
    os.mknod(base / "3/gone", WHITEOUT_MODE)
    os.mknod(base / "1/gone", WHITEOUT_MODE)
    os.mknod(base / "1/device", WHITEOUT_MODE)
    os.setxattr(base / "2/opaque", "trusted.overlay.opaque", b"y")
    return Stack((bytes(base / "3"), bytes(base / "2")), bytes(base / "1"))


def test_a_folder_is_of_the_layers_down_to_what_ends_it(stack: Stack) -> None:
    expected = {b"folder": [0, 1, 2], b"kind": [0], b"opaque": [0, 1]}
    for reads_names in (False, True):
        with Union.root(stack) as root:
            if reads_names:
                root.names()
            for name, layers in expected.items():
                with root.enter(name) as inside:
                    assert [part.layer for part in inside.parts] == layers
                with Union.beneath(name, [root.parts[layer] for layer in layers]) as inside:
                    assert [part.layer for part in inside.parts] == layers
            candidates = [root.parts[place] for place in root.places()[b"opaque"]]
            assert [part.layer for part in candidates] == [0, 1, 2]
            with Union.beneath(b"opaque", candidates) as inside:
                assert [part.layer for part in inside.parts] == [0, 1]


def test_a_device_0_0_of_the_lowest_layer_is_one(stack: Stack) -> None:
    with Union.root(stack) as root:
        assert root.names().keys() == {b"device", b"folder", b"kind", b"only", b"opaque"}
        assert root.find(b"gone") is None
    with Union.root(Stack((), stack.whole)) as root:
        assert root.is_plain
        assert {b"device", b"gone"} < root.names().keys()


def test_a_shelved_folder_is_opened_again_where_it_was(stack: Stack) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Union.root(stack) as root, root.enter(b"folder") as folder, folder.enter(b"low") as low:
        expected = sorted(folder.names())
        identities = [os.fstat(part.fd).st_ino for part in folder.parts]
        folder.shelve()
        folder.shelve()
        assert len(os.listdir("/proc/self/fd")) == before + 3 + 1
        folder.reopen(b"folder", low, root)
        assert [os.fstat(part.fd).st_ino for part in folder.parts] == identities
        assert sorted(folder.names()) == expected == [b"low", b"top"]
        assert folder.find(b"low") is not None
        folder.shelve()
        os.rename(os.path.join(stack.whole, b"folder/low"), os.path.join(stack.whole, b"low"))
        with pytest.raises(OSError, match="moved") as caught:
            folder.reopen(b"folder", low, root)
        assert caught.value.errno == errno.ESTALE
    assert len(os.listdir("/proc/self/fd")) == before


def test_folders_are_found_by_their_paths_in_any_order(tmp_path: Path) -> None:
    deep = [b"deep"] * 300
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for layer in (upper, lower):
        os.makedirs(os.path.join(os.fsencode(layer), *deep))
        (layer / "deep/deep/other").mkdir()
        (layer / "deep/file").touch()
    before = len(os.listdir("/proc/self/fd"))
    with Union.root(stack_of([upper, lower])) as root, UnionPaths(root) as folders:
        for names in (deep, deep[:299], deep[:2], [*deep[:2], b"other"], deep, [], deep[:1]):
            inodes = [os.fstat(part.fd).st_ino for part in folders.at(names).parts]
            paths = [os.path.join(os.fsencode(layer), *names) for layer in (upper, lower)]
            assert inodes == [os.stat(path).st_ino for path in paths]
            assert folders.way == names
            assert len(os.listdir("/proc/self/fd")) < before + 300
        for name, error in ((b"none", FileNotFoundError), (b"file", NotADirectoryError)):
            with pytest.raises(error):
                folders.at([b"deep", name, b"x"])
            assert folders.way == [b"deep"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_layer_that_cannot_be_opened_is_named(stack: Stack) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError) as caught:
        Union.root(Stack((*stack.differences, b"/nowhere"), stack.whole))
    assert caught.value.filename == b"/nowhere"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_or_folders_are_a_stack(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path)
    assert stack_of(tmp_path) == stack_of(str(tmp_path)) == stack_of([path]) == Stack((), path)
    assert stack_of(["a", Path("b"), b"c"]) == Stack((b"a", b"b"), b"c")
    assert stack_of(Stack((b"a",), b"b")).paths == (b"a", b"b")
    with pytest.raises(ValueError, match="at least one layer"):
        stack_of([])
