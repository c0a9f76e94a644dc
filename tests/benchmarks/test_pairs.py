"""What the benchmarks tell can be trusted: the same work, in turn, each with its pair."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks.pairs import Rival, Times, alternate
from benchmarks.question import markdown
from reflayer import copy_tree
from tests.file_systems import require


def appending(name: str, log: Path) -> Rival:
    return Rival(name, ["sh", "-c", f"echo {name} >>{log}"])


def test_rivals_take_turns_and_a_first_round_is_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    times = alternate([appending("a", log), appending("b", log)], tmp_path, 2, lambda _: None)
    assert log.read_text().split() == ["a", "b"] * 3
    assert [len(one.seconds) for one in times] == [2, 2]


def test_what_comes_before_and_after_is_not_timed(tmp_path: Path) -> None:
    steps: list[str] = []
    rival = Rival(
        "a", ["true"], before=lambda: steps.append("before"), after=lambda: steps.append("after")
    )
    alternate([rival], tmp_path, 1, lambda _: None)
    assert steps == ["before", "after"] * 2


def test_one_that_fails_ends_it_with_its_own_words(tmp_path: Path) -> None:
    rival = Rival("a", ["sh", "-c", "echo no such thing >&2; exit 3"])
    with pytest.raises(SystemExit, match="a: no such thing"):
        alternate([rival], tmp_path, 1, lambda _: None)


def test_a_call_in_this_process_is_timed_like_one(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    copying = partial(copy_tree, tmp_path / "src", tmp_path / "dst")
    rival = Rival("a", copying, after=(tmp_path / "dst").rmdir)
    (times,) = alternate([rival], tmp_path, 2, lambda _: None)
    assert len(times.seconds) == 2
    with pytest.raises(SystemExit, match=f"a: .*{tmp_path}/gone"):
        alternate([Rival("a", partial(copy_tree, tmp_path / "gone", "dst"))], tmp_path, 1, print)


def test_its_words_are_told_where_nothing_can_be_put_as_it_was_either(tmp_path: Path) -> None:
    def after() -> None:
        raise SystemExit("nothing to remove")

    rival = Rival("a", ["sh", "-c", "echo no such thing >&2; exit 3"], after=after)
    with pytest.raises(SystemExit, match="a: no such thing"):
        alternate([rival], tmp_path, 1, lambda _: None)


def test_a_ratio_is_the_median_of_those_of_the_pairs() -> None:
    # Both slowed down in the second round: the ratio of the medians would be 0.5 too, but the
    # quartiles show that every single pair says so.
    ours, theirs = Times("a", (1.0, 4.0, 1.0)), Times("b", (2.0, 8.0, 2.0))
    assert theirs.ratio_of(ours) == (0.5, 0.5, 0.5)


def test_the_table_has_a_column_for_each_place_and_says_what_is_missing() -> None:
    ours, theirs = Times("a", (1.0, 1.0)), Times("b", (2.0, 2.0))
    gone = Times("c", (), missing="no c here")
    assert markdown({"xfs": [ours, theirs, gone], "ext4": [ours, ours, gone]}).splitlines() == [
        "| | xfs | ext4 |",
        "| --- | --- | --- |",
        "| a | 1 s | 1 s |",
        "| b | 2 s (0.50; 0.50 to 0.50) | 1 s |",
        "| c | no c here | no c here |",
    ]


@pytest.mark.parametrize(
    ("question", "options", "rows"),
    [
        ("copying", ["--only=cp"], ["reflayer copy", "cp -a"]),
        (
            "copying",
            ["--only=copy.c", "--first=warm"],
            ["reflayer.copy_tree, warm", f"copy.c, {len(os.sched_getaffinity(0))} threads"],
        ),
        (
            "copying",
            ["--only=(", "--beside=/bin/true"],
            [
                "reflayer copy",
                "reflayer copy (/bin/true)",
                "reflayer copy --workers 1 (/bin/true)",
                "REFLAYER_PURE=1 reflayer copy --workers 1 (/bin/true)",
                "Docker's vfs copy (Go)",
                "containers/storage's vfs copy (Go)",
            ],
        ),
        ("diffing", [], ["reflayer diff", "diff -rq"]),
        ("measuring", ["--only=du"], ["reflayer df", "du -s"]),
        ("removing", ["--only=rm -rf", "--first=--wait"], ["reflayer rm --wait", "rm -rf"]),
        ("unpacking", ["--only=tar -xf", "--first=plain"], ["apply_layer, plain", "tar -xf"]),
    ],
)
def test_the_same_work_is_measured_and_leaves_nothing(
    place: Path, tmp_path: Path, question: str, options: list[str], rows: list[str]
) -> None:
    require("umoci", "gcc", "go")
    (tmp_path / "source/folder").mkdir(parents=True)
    (tmp_path / "source/folder/file").write_text("content")
    os.mkfifo(tmp_path / "source/fifo")
    command = [sys.executable, "-m", f"benchmarks.{question}", "--runs=1", *options]
    where = ["--json", "--place", str(place), "--tree", f"{tmp_path}/source"]
    done = subprocess.run([*command, *where], capture_output=True, check=True)
    told = json.loads(done.stdout)
    assert told["entries"] == 3
    (seconds,) = told["seconds"].values()
    assert list(seconds) == rows
    assert all(isinstance(one, list) for one in seconds.values()), seconds  # nothing is missing
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--first=nobody", "--first nobody: only reflayer copy, .*, cp -a, .* are there"),
        ("--beside=/bin/false", r"reflayer copy \(/bin/false\): "),
    ],
)
def test_what_cannot_be_a_row_is_told(tmp_path: Path, option: str, error: str) -> None:
    (tmp_path / "source").mkdir()
    where = ["--place", str(tmp_path), "--tree", f"{tmp_path}/source"]
    command = [sys.executable, "-m", "benchmarks.copying", *where, option]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(error, done.stderr.rstrip("\n"))
    assert [one.name for one in tmp_path.iterdir()] == ["source"]


def test_nothing_is_left_behind_when_it_is_ended(tmp_path: Path) -> None:
    source, place = tmp_path / "source", tmp_path / "place"
    for folder in (source, place):
        folder.mkdir()
    command = [sys.executable, "-m", "benchmarks.copying", "--runs", "1000", "--only", "cp"]
    running = subprocess.Popen([*command, "--place", str(place), "--tree", str(source)])
    while not list(place.glob("*/copy")):
        time.sleep(0.01)
    running.terminate()
    assert running.wait(30) == 128 + signal.SIGTERM
    assert list(place.iterdir()) == []
