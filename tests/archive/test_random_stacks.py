"""A clone compared with a random stack, as with the tree that overlayfs shows of it."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings

from reflayer.archive import (
    apply_layer,
    changed_size,
    changed_usage,
    changes,
    difference_changes,
    pack_difference,
    pack_layer,
    untouched,
)
from reflayer.archive.whiteouts import WHITEOUT_PREFIX
from reflayer.copy import copy_tree, remove_tree
from reflayer.walk.stack import stack_of
from tests.archive.test_random_changes import EDITS, Edit, edit, without_sockets
from tests.file_systems import require_root
from tests.random_stacks import STACKS, make_stack, overlay
from tests.random_trees import Tree
from tests.trees import assert_same, facts

_numbers = itertools.count()
untimed = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def has_whiteout(tree: Path) -> bool:
    """Whether a name begins as none in a layer may."""
    return any(os.path.basename(path).startswith(WHITEOUT_PREFIX) for path in facts(tree))


on_each = pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])


@pytest.mark.parametrize("has_c", [True, False])
@on_each
def test_a_clone_of_a_stack_has_the_layer_that_it_has_to_the_tree(
    file_system: Callable[[str], Path], kind: str, has_c: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    place = file_system(kind)
    if not has_c:
        monkeypatch.setattr(untouched, "CHANGED_NAMES", None)

    @untimed
    @given(STACKS, EDITS)
    def check(made: tuple[Tree, list[list[Edit]]], edits: list[Edit]) -> None:
        here = place / f"stack-{next(_numbers)}"
        whole, clone = here / "whole", here / "clone"
        try:
            stack = make_stack(here, *made)
            with overlay(here, stack) as mount:
                copy_tree(mount, whole)
            time.sleep(0.01)
            copy_tree(whole, clone)
            time.sleep(0.03)
            cloned = time.time()
            assert list(changes(clone, stack)) == []
            assert list(changes(clone, stack, cloned=cloned)) == []
            for one in edits:
                edit(bytes(clone), *one)
            assume(not has_whiteout(whole) and not has_whiteout(clone))

            told = list(changes(clone, whole))
            layer = b"".join(pack_layer(clone, whole))
            for since in (None, cloned):
                assert list(changes(clone, stack, cloned=since)) == told
                assert b"".join(pack_layer(clone, stack, cloned=since)) == layer
                assert changed_size(clone, stack, cloned=since) == changed_size(clone, whole)
                assert changed_usage(clone, stack, cloned=since) == changed_usage(clone, whole)
        finally:
            remove_tree(here)

    check()


@on_each
def test_a_difference_is_the_layer_that_makes_its_tree(
    file_system: Callable[[str], Path], kind: str
) -> None:
    require_root()
    place = file_system(kind)

    @untimed
    @given(STACKS)
    def check(made: tuple[Tree, list[list[Edit]]]) -> None:
        here = place / f"difference-{next(_numbers)}"
        tree, other = here / "tree", here / "other"
        try:
            upper, *below = make_stack(here, *made)
            with overlay(here, [upper, *below]) as mount:
                copy_tree(mount, tree)
            with overlay(here, below) as mount:
                copy_tree(mount, other)
            assume(not has_whiteout(tree) and not has_whiteout(other))
            told = list(difference_changes(upper, stack_of(below)))
            compared = list(changes(tree, other))
            apply_layer(other, io.BytesIO(b"".join(pack_difference(upper))))
            assert_same(*(without_sockets(facts(root, atime=False)) for root in (tree, other)))
            assert {*compared} <= {*told}
            assert {change.kind for change in {*told} - {*compared}} <= {"C"}
        finally:
            remove_tree(here)

    check()
