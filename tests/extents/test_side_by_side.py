"""Trees measured by several processes: the same as by one, and nobody is left when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer.errors import OperationError
from reflayer.extents import helpers, measure_tree, measure_trees, share_out, trees
from tests.random_trees import TREES, Tree, make_tree


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers are called after the first folder."""
    monkeypatch.setattr(trees, "_ALONE", 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[helpers.Helper]:
    """The helper of each tree that one was asked for."""
    asked: list[helpers.Helper] = []
    ask = helpers.Helper.ask

    def note(helper: helpers.Helper, path: os.PathLike[str]) -> None:
        asked.append(helper)
        ask(helper, path)

    monkeypatch.setattr(helpers.Helper, "ask", note)
    return asked


def are_gone(some: list[helpers.Helper]) -> bool:
    """Whether there are some, and they have ended and been waited for."""
    return bool(some) and all(helper._process.returncode is not None for helper in some)


def several(place: Path, number: int = 4) -> list[Path]:
    """Trees of some folders and files."""
    made = [place / f"tree{n}" for n in range(number)]
    for tree in made:
        for name in range(5):
            (tree / str(name)).mkdir(parents=True)
            (tree / str(name) / "file").write_bytes(os.urandom(5_000))
    return made


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
@given(trees=st.lists(TREES, min_size=2, max_size=3))
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_trees_are_told_as_one_process_tells_them(
    kind: str, trees: list[Tree], place_on: Callable[[str], Path]
) -> None:
    place = place_on(kind)
    parts: list[Path] = []
    for number, tree in enumerate(trees):
        one, clone = place / f"{number}", place / f"{number}-clone"
        one.mkdir()
        make_tree(os.fsencode(one), tree, [])
        (one / "more").mkdir()
        (one / "more/data").write_bytes(os.urandom(9_000))
        subprocess.run(["cp", "-a", "--reflink=always", one, clone], check=True)
        os.link(one / "more/data", clone / "outside")
        parts += [one, clone]
    try:
        alone = [measure_tree(part) for part in parts]
        together = measure_trees(parts, workers=3)
        assert together == alone
        assert share_out(together) == share_out(alone)
    finally:
        subprocess.run(["rm", "-rf", *parts], check=True)


def test_helpers_take_what_the_caller_has_not_begun(
    place_on: Callable[[str], Path], asked: list[helpers.Helper]
) -> None:
    paths = several(place_on("xfs"))
    seen: list[int] = []
    told = measure_trees(paths, workers=2, progress=seen.append)
    assert told == [measure_tree(path) for path in paths]
    assert sum(seen) == 4 * 10
    assert len(set(asked)) == 1
    assert are_gone(asked)


def test_one_worker_is_this_process(tmp_path: Path, asked: list[helpers.Helper]) -> None:
    assert len(measure_trees(several(tmp_path), workers=1)) == 4
    assert asked == []
    assert measure_trees([]) == []


def test_an_error_that_a_helper_meets_is_that_of_its_tree(
    tmp_path: Path, asked: list[helpers.Helper]
) -> None:
    too_long = "/name" * 1000
    paths: list[str | Path] = [*several(tmp_path)]
    paths.insert(1, too_long)
    with pytest.raises(OperationError, match="open: File name too long") as caught:
        measure_trees(paths, workers=2)
    assert caught.value.path == too_long
    assert are_gone(asked)


def test_a_helper_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = helpers.Helper.ask
    asked: list[helpers.Helper] = []

    def ask_and_kill(helper: helpers.Helper, path: Path) -> None:
        asked.append(helper)
        os.kill(helper._process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, helper._process.pid, os.WEXITED | os.WNOWAIT)
        ask(helper, path)

    monkeypatch.setattr(helpers.Helper, "ask", ask_and_kill)
    paths = several(tmp_path)
    with pytest.raises(OperationError, match="died; try again") as caught:
        measure_trees(paths, workers=2)
    assert caught.value.path == str(paths[1])
    assert are_gone(asked)


def test_progress_that_raises_ends_all(tmp_path: Path, asked: list[helpers.Helper]) -> None:
    def stop(_: int) -> None:
        if asked:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_trees(several(tmp_path), workers=4, progress=stop)
    assert len(asked) == 3
    assert are_gone(asked)


def test_where_no_process_can_be_started_it_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    paths = several(tmp_path)
    assert measure_trees(paths, workers=2) == [measure_tree(path) for path in paths]


def test_an_interrupt_at_the_terminal_does_not_end_a_helper_that_is_starting(
    place_on: Callable[[str], Path],
) -> None:
    (tree,) = several(place_on("xfs"), 1)
    helper = helpers.Helper()
    try:
        os.kill(helper._process.pid, signal.SIGINT)
        helper.ask(tree)
        while isinstance(told := helper.answer(), int):
            pass
    finally:
        helper.end()
    assert told.inodes == 11
