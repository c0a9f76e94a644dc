"""What the benchmarks tell can be trusted: the same work, in turn, each with its pair."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.question import markdown
from reflayer.bench.runs import Times
from reflayer.linux.statfs import file_system_name
from tests.file_systems import require


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
        ("importing", [], ["reflayer create", "umoci unpack"]),
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
    done = subprocess.run([*command, *where], stdout=subprocess.PIPE, check=True)
    told = json.loads(done.stdout)
    assert told["entries"] == 3
    (seconds,) = told["seconds"].values()
    assert list(seconds) == rows
    assert all(isinstance(one, list) for one in seconds.values()), seconds  # nothing is missing
    assert list(place.iterdir()) == []


def test_what_many_containers_cost_is_measured_and_leaves_nothing(place: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--few=10", "--many=20", "--runs=2"]
    done = subprocess.run([*command, "--place", str(place)], stdout=subprocess.PIPE, check=True)
    table = [line for line in done.stdout.decode().splitlines() if line.startswith("|")]
    assert table[0] == "| | 10 | 20 | ratio |"
    assert len(table) == 2 + 13
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("undisturbed")
def test_what_spares_cost_is_measured_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").touch()
    command = [sys.executable, "-m", "benchmarks.at_once", "--runs=2", "--lasting=3"]
    where = ["--place", str(place), "--tree", str(tmp_path / "tree")]
    done = subprocess.run([*command, *where], stdout=subprocess.PIPE, check=True)
    lines = done.stdout.decode().splitlines()
    fd = os.open(place, os.O_RDONLY)
    recycled = 0 if file_system_name(fd) in ("btrfs", "tmpfs") else 2
    os.close(fd)
    assert len([line for line in lines if line.startswith("|")]) == 2 + 8 + recycled
    assert lines[-1].startswith("3 containers made of spares and removed: ")
    assert lines[-1].endswith(" 0 descriptors and 0 KiB more in use")
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--first=nobody", "--first nobody: only reflayer copy, .*, cp -a, .* are there"),
        ("--beside=/bin/false", r"reflayer copy \(/bin/false\): exit status 1"),
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
