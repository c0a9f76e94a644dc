"""What is measured can be trusted: the same work, in turn, each with its pair."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from reflayer import copy_tree
from reflayer.bench.runs import Rival, Times, alternate
from reflayer.errors import ReflayerError


def appending(name: str, log: Path) -> Rival:
    return Rival(name, ["sh", "-c", f"echo {name} >>{log}"])


def test_rivals_take_turns_and_a_first_round_is_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    times = alternate([appending("a", log), appending("b", log)], tmp_path, 2)
    assert log.read_text().split() == ["a", "b"] * 3
    assert [len(one.seconds) for one in times] == [2, 2]


def test_what_comes_before_and_after_is_not_timed(tmp_path: Path) -> None:
    steps: list[str] = []
    rival = Rival(
        "a", ["true"], before=lambda: steps.append("before"), after=lambda: steps.append("after")
    )
    alternate([rival], tmp_path, 1)
    assert steps == ["before", "after"] * 2


def test_one_that_fails_ends_it_with_its_own_words(tmp_path: Path) -> None:
    rival = Rival("a", ["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(ReflayerError, match="a: no such thing"):
        alternate([rival], tmp_path, 1)


def test_a_call_in_this_process_is_timed_like_one(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    copying = partial(copy_tree, tmp_path / "src", tmp_path / "dst")
    rival = Rival("a", copying, after=(tmp_path / "dst").rmdir)
    (times,) = alternate([rival], tmp_path, 2)
    assert len(times.seconds) == 2
    with pytest.raises(ReflayerError, match=f"a: .*{tmp_path}/gone"):
        alternate([Rival("a", partial(copy_tree, tmp_path / "gone", "dst"))], tmp_path, 1)


def test_its_words_are_told_where_nothing_can_be_put_as_it_was_either(tmp_path: Path) -> None:
    def after() -> None:
        raise SystemExit("nothing to remove")

    rival = Rival("a", ["sh", "-c", "echo no such thing >&2; exit 3"], after=after)
    with pytest.raises(ReflayerError, match="a: no such thing"):
        alternate([rival], tmp_path, 1)


def test_a_ratio_is_the_median_of_those_of_the_pairs() -> None:
    # Both slowed down in the second round: the ratio of the medians would be 0.5 too, but the
    # quartiles show that every single pair says so.
    ours, theirs = Times("a", (1.0, 4.0, 1.0)), Times("b", (2.0, 8.0, 2.0))
    assert theirs.ratio_of(ours) == (0.5, 0.5, 0.5)


def test_one_that_may_fail_is_missing_if_it_does_at_first(tmp_path: Path) -> None:
    rivals = [
        Rival("a", ["sh", "-c", "echo no such thing >&2; exit 3"]),
        Rival("b", partial(copy_tree, tmp_path / "gone", tmp_path / "dst")),
        appending("c", tmp_path / "log"),
    ]
    rounds: list[tuple[object, ...]] = []
    measured = alternate(rivals, tmp_path, 2, lambda *what: rounds.append(what), may_fail=True)
    assert [times.missing for times in measured] == [
        "no such thing",
        "No such file or directory",
        None,
    ]
    assert [len(times.seconds) for times in measured] == [0, 0, 2]
    assert rounds == [("a", 0, 2), ("b", 0, 2), ("c", 0, 2), ("c", 1, 2), ("c", 2, 2)]


def test_one_that_fails_later_ends_it_though_it_may_fail_at_first(tmp_path: Path) -> None:
    rival = Rival("a", ["sh", "-c", f"test ! -e {tmp_path}/twice && echo >>{tmp_path}/twice"])
    with pytest.raises(ReflayerError, match="a: exit status 1"):
        alternate([rival], tmp_path, 2, may_fail=True)
