"""Random layers one upon another: as differences they are the tree that they make in one folder."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from stat import S_IFCHR

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer.archive import apply_layer, changes, pack_difference, pack_layer
from reflayer.copy import copy_tree, remove_tree
from reflayer.errors import ReflayerError
from reflayer.walk.stack import Stack
from tests.archive.tars import apply, tar
from tests.random_layers import random_layers
from tests.trees import Facts, assert_same, facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_numbers = itertools.count()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_random_layers_are_one_tree_as_differences_too(
    file_system: Callable[[str], Path], kind: str
) -> None:
    place = file_system(kind)

    @settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32), st.integers(2, 5))
    def check(seed: int, count: int) -> None:
        here = place / f"layers-{next(_numbers)}"
        here.mkdir()
        try:
            _check(here, [tar(*layer) for layer in random_layers(Random(seed), count)])
        finally:
            remove_tree(here)

    check()


def _check(here: Path, layers: list[bytes]) -> None:
    started = time.time_ns() - 10**9
    stack = Stack((), bytes(here / "lowest"))
    for number, layer in enumerate(layers):
        below = stack
        if number:
            upper = here / f"upper-{number}"
            upper.mkdir()
            stack = Stack((bytes(upper), *below.differences), below.whole)
        try:
            apply(here / "in-place", layer)
        except ReflayerError as error:
            with pytest.raises(type(error)):
                _apply(stack, below, layer)
            return
        _apply(stack, below, layer)
        if number:
            looked = here / f"looked-{number}"
            looked.mkdir()
            stream = io.BufferedReader(_Once(layer))
            apply_layer(looked, stream, below=partial(Stack, below.differences, below.whole))
            assert_same(_difference(looked, started), _difference(upper, started))
            remove_tree(looked)
        expected = _facts(here / "in-place", started)
        union = here / f"union-{number}"
        copy_tree(stack, union)
        assert_same(expected, _facts(union, started))
        assert list(changes(union, stack)) == []
        if number:
            for packing in (pack_difference(stack.differences[0]), pack_layer(union, below)):
                again = here / f"again-{next(_numbers)}"
                copy_tree(below, again)
                apply(again, b"".join(packing))
                assert_same(expected, _facts(again, started))


class _Once(io.RawIOBase):
    """An archive that cannot be read twice: so what is below is looked at before, not guessed."""

    def __init__(self, archive: bytes) -> None:
        self._archive = io.BytesIO(archive)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self._archive.readinto(buffer)


def _apply(stack: Stack, below: Stack, layer: bytes) -> None:
    """Apply ``layer`` to the topmost of ``stack``, which lies on ``below``."""
    if stack is below:
        Path(stack.whole.decode()).mkdir()
        apply_layer(stack.whole, io.BytesIO(layer))
    else:
        apply_layer(stack.differences[0], io.BytesIO(layer), below=lambda: below)


def _facts(root: Path, started: int) -> dict[bytes, Facts]:
    """Folders that no layer has an entry for have the time of their making."""
    told = facts(root, atime=False)
    return {
        path: fact._replace(mtime=0) if fact.mtime >= started else fact
        for path, fact in told.items()
    }


def _difference(root: Path, started: int) -> dict[bytes, Facts]:
    """The group of a whiteout, which nobody sees, may be that of the folder as it was then."""
    told = _facts(root, started)
    whiteouts = {name for name, fact in told.items() if (fact.type, fact.device) == (S_IFCHR, 0)}
    return {n: f._replace(owner=(0, 0)) if n in whiteouts else f for n, f in told.items()}
