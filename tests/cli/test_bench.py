"""``reflayer bench``: what it measures, shows and leaves behind (nothing)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from reflayer.bench.runs import Times
from reflayer.bench.sample_tree import make_tree
from reflayer.cli.bench import chart
from tests.trees import facts

BENCH = (sys.executable, "-m", "reflayer", "bench")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree, so that measuring it takes no time."""
    folder = tmp_path / "tree"
    folder.mkdir()
    make_tree(str(folder), 50)
    return folder


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, check=False)


def numbers(*arguments: str | Path) -> dict[str, dict[str, dict[str, object]]]:
    done = bench(*arguments, "--json", "--runs", "2")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told


def test_every_method_is_measured_as_often_as_asked_for(
    tree: Path, place_on: Callable[[str], Path]
) -> None:
    methods = numbers(place_on("xfs"), "--tree", tree)["methods"]
    assert {"reflink", "range", "stream", "tar", "cp -a"} <= set(methods)
    for way in ("reflink", "range", "stream", "tar", "cp -a"):
        assert len(methods[way]["seconds"]) == 2, way  # type: ignore[arg-type]
    assert methods["cp -a"]["ratio"] == 1


def test_a_method_that_does_not_work_there_is_told_with_the_reason(
    tree: Path, place_on: Callable[[str], Path]
) -> None:
    methods = numbers(place_on("ext4"), "--tree", tree)["methods"]
    assert methods["reflink"] == {"error": os.strerror(95)}
    assert "median" in methods["range"]


def test_a_snapshot_is_measured_on_btrfs_alone(tree: Path, place_on: Callable[[str], Path]) -> None:
    assert "median" in numbers(place_on("btrfs"), "--tree", tree)["methods"]["snapshot"]
    done = bench(place_on("ext4"), "--tree", tree, "--runs", "1")
    assert re.search(r"^snapshot does not work here: .*btrfs", done.stdout, re.MULTILINE)


def test_blocks_that_are_shared_take_no_space(tree: Path, place_on: Callable[[str], Path]) -> None:
    (tree / "large").write_bytes(os.urandom(32 << 20))
    methods = numbers(place_on("xfs"), "--tree", tree)["methods"]
    assert methods["reflink"]["disk"] < 8 << 20 < methods["stream"]["disk"]  # type: ignore[operator]


def test_the_table_says_what_was_measured_and_nothing_is_left_behind(
    tree: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    done = bench(place, "--tree", tree, "--runs", "1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"50 entries, .* on \w+", done.stdout)
    assert "cp -a" in done.stdout
    assert os.listdir(place) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind_when_it_is_interrupted(tmp_path: Path, number: int) -> None:
    running = subprocess.Popen([*BENCH, tmp_path], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".reflayer-bench-*/*")):
        time.sleep(0.01)
    running.send_signal(number)
    assert running.wait(30) != 0
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert bench(tmp_path / "absent").returncode == 2


def test_the_chart_has_a_bar_for_each_method_that_works_as_long_as_its_time() -> None:
    measured = [
        Times("reflink", (), "Operation not <supported>", "shared"),
        Times("range", (0.25, 0.2, 0.3), about="copied"),
        Times("cp -a", (0.5, 0.5, 0.5), about="of coreutils"),
    ]
    drawing = ElementTree.fromstring(chart(measured, "A title", "A & caption"))
    name = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in drawing.iter(f"{name}rect") if "class" in bar.attrib]
    assert [float(bar.attrib["width"]) for bar in bars] == [195, 390]
    texts = [text.text for text in drawing.iter(f"{name}text")]
    assert "does not work here: Operation not <supported>" in texts
    assert "250 ms, 0.50 x cp -a" in texts


def test_the_chart_is_written_to_a_file(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "chart.svg"
    assert bench(tmp_path, "--tree", tree, "--runs", "1", "--plot", file).returncode == 0
    assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_the_made_tree_is_always_the_same(tmp_path: Path) -> None:
    trees = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        make_tree(str(folder), 300)
        trees.append(facts(folder, atime=False))
    assert trees[0] == trees[1]
    assert len(trees[0]) == 301
    assert {fact.links for fact in trees[0].values()} > {0, 1}
