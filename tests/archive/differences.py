"""Layers applied as differences beside the same layers applied in place, which have to agree."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from reflayer.archive import AppliedLayer
from reflayer.copy import copy_tree, remove_tree
from reflayer.errors import ReflayerError
from reflayer.walk.stack import Stack
from tests.archive.tars import apply
from tests.trees import Facts, assert_same, facts


class Layers:
    """A tree made in place and as a stack, layer by layer.

    Attributes:
        tree: what all layers make in place.
        stack: the same as a stack; its lowest layer is the first one that was applied.
        asked: whether the last layer asked for what is below it.
    """

    def __init__(self, place: Path, base: bytes) -> None:
        """Apply ``base`` to an empty folder in ``place``."""
        self._place = place
        self._started = time.time_ns() - 10**9  # what files get the time of is a coarse clock
        self._number = 0
        self.tree = place / "base"
        self.stack = Stack((), os.fsencode(self.tree))
        self.asked = False
        apply(self.tree, base)

    def apply(self, layer: bytes, **options: object) -> Path:
        """Apply one more layer in both ways, and compare; return its difference.

        Raises:
            ReflayerError: it failed in both ways, and both told the same.
        """
        self._number += 1
        tree = self._place / f"tree-{self._number}"
        copy_tree(self.tree, tree)
        difference = self._place / f"difference-{self._number}"
        self.asked = False

        def below() -> Stack:
            assert not self.asked
            self.asked = True
            return self.stack

        error = _error_of(tree, layer, **options)
        other = _error_of(difference, layer, below=below, **options)
        told = str(error).replace(os.fspath(tree), os.fspath(difference))
        both = f"in place: {error!r}, as a difference: {other!r}"
        assert (type(error), told) == (type(other), str(other)), both
        if other is not None:
            raise other
        self.tree = tree
        self.stack = Stack((os.fsencode(difference), *self.stack.differences), self.stack.whole)
        union = self._place / f"union-{self._number}"
        copy_tree(self.stack, union)
        assert_same(self._facts(tree), self._facts(union))
        return difference

    def _facts(self, root: Path) -> Mapping[bytes, Facts]:
        """With one time for all that are of this test, as those of folders without an entry."""
        return {
            path: fact._replace(
                mtime=min(fact.mtime, self._started),
                atime=None if fact.atime is None else min(fact.atime, self._started),
            )
            for path, fact in facts(root, holes=True).items()
        }


def _error_of(root: Path, layer: bytes, **options: object) -> ReflayerError | None:
    try:
        apply(root, layer, **options)
    except ReflayerError as error:
        return error
    return None


def apply_over(root: Path | bytes | str, archive: bytes, **options: object) -> AppliedLayer:
    """As ``tars.apply``, but by way of a difference, which is laid over the root then."""
    if not isinstance(root, Path):
        return apply(root, archive, below=lambda: Stack((), os.fsencode(root)), **options)
    root = root.resolve()
    root.mkdir(exist_ok=True)
    difference, union = root.with_name(f"{root.name}.upper"), root.with_name(f"{root.name}.union")
    whole = os.fsencode(root)
    try:
        applied = apply(difference, archive, below=lambda: Stack((), whole), **options)
        copy_tree(Stack((os.fsencode(difference),), whole), union)
    finally:
        remove_tree(difference)
    remove_tree(root)
    union.rename(root)
    return applied
