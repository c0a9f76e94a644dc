"""Random edits of random trees: committed, and made again."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from reflayer import Store
from reflayer.copy import remove_tree
from tests.archive.test_random_changes import EDITS, Edit, edit, without_sockets
from tests.random_trees import TREES, Tree, make_tree
from tests.trees import assert_same, facts

_numbers = itertools.count()


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_was_committed_is_made_again(file_system: Callable[[str], Path], kind: str) -> None:
    place = file_system(kind)

    @settings(max_examples=10, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(TREES, EDITS, EDITS)
    def check(tree: Tree, edits: list[Edit], more: list[Edit]) -> None:
        here = place / f"commit-{next(_numbers)}"
        try:
            (here / "tree").mkdir(parents=True)
            make_tree(os.fsencode(here / "tree"), tree, [])
            store = Store(here / "store")
            name = f"rootfs:{here}/tree"
            for turn in (edits, more):
                container = store.create(name)
                for one in turn:
                    edit(os.fsencode(container.path), *one)
                store.commit(container.name, "new")
                name = "new"
                again = store.create(name)
                left = facts(Path(container.path), atime=False)
                right = facts(Path(again.path), atime=False)
                assert_same(without_sockets(left), right)
        finally:
            remove_tree(here)

    check()
