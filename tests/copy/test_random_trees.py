"""Any tree comes out the same, and the report does not tell how many hands made it."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from reflayer import copy_tree
from reflayer.copy import remove_tree
from tests.file_systems import require_root
from tests.random_trees import TREES, Tree, make_tree
from tests.trees import assert_same, facts

_numbers = itertools.count()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
def test_any_tree_by_any_hands(file_system: Callable[[str], Path], kind: str) -> None:
    require_root()
    place = file_system(kind)

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(TREES)
    def check(tree: Tree) -> None:
        here = place / f"random-{next(_numbers)}"
        try:
            (here / "src").mkdir(parents=True)
            make_tree(os.fsencode(here / "src"), tree, [])
            before = facts(here / "src")

            one = copy_tree(here / "src", here / "one", workers=1)
            many = copy_tree(here / "src", here / "many", workers=3)
            tar = copy_tree(here / "src", here / "tar", method="tar")

            assert_same(before, facts(here / "one"))
            assert_same(before, facts(here / "many"))
            assert_same(before, facts(here / "src"))
            sockets = {path for path, told in before.items() if told.type == stat.S_IFSOCK}
            assert_same(
                {path: told for path, told in before.items() if path not in sockets},
                facts(here / "tar"),
            )
            assert (one.entries, one.bytes, one.skipped) == (many.entries, many.bytes, many.skipped)
            assert sum(one.entries.values()) == len(before)
            assert tar.skipped.get("socket", 0) == len(sockets)
        finally:
            remove_tree(here)

    check()
