"""``reflayer bench``."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reflayer.cli.arguments import add_json, at_least_one, folder
from reflayer.cli.bench.chart import chart
from reflayer.cli.bench.machine import machine_facts
from reflayer.cli.bench.runs import Outcome, compared_with, measure
from reflayer.cli.bench.sample import make_tree
from reflayer.cli.bench.table import print_table
from reflayer.cli.bench.ways import METHODS, ways
from reflayer.cli.progress import size_text
from reflayer.copy import copy_tree, remove_tree
from reflayer.driver import Driver
from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_LAYER = "image"
_ENTRIES = 6000  # of the tree that is made: as many as a minimal Debian has


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Measure each method of making a container's tree in the folder DIR.\n\n"
        "The methods run in turn, side by side with cp -a, in a new folder of DIR that is\n"
        "removed at the end, however it ends."
    )
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=folder,
        default=".",
        help="where; by default the current folder",
    )
    parser.add_argument(
        "--tree",
        metavar="DIR",
        type=folder,
        help="measure with a copy of this folder; by default a tree like a small distribution's "
        "is made, always the same",
    )
    parser.add_argument(
        "--runs",
        metavar="N",
        type=at_least_one,
        default=5,
        help="how often each method is measured; the median counts (default: 5)",
    )
    parser.add_argument("--plot", metavar="FILE", help="draw a chart, as SVG")
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Measure and tell."""
    place, tree, runs = arguments.folder, arguments.tree, arguments.runs
    with _scratch(place) as scratch, _watched(runs) as watch:
        watch("making the tree")
        with Driver(scratch).build(_LAYER) as layer:
            if tree is None:
                make_tree(layer, _ENTRIES)
            else:
                copy_tree(tree, layer)
            entries, size = _count(layer)
        outcomes = measure(ways(scratch, _LAYER), scratch, runs, watch)
    facts = machine_facts(place)
    title = (
        f"Making a container of {entries:,} entries, {size_text(size)}, on {facts['file system']}"
    )
    caption = f"Median of {runs}, {facts['processor']}, {facts['kernel']}, {facts['date']}"
    if arguments.plot is not None:
        _write(arguments.plot, chart(outcomes, title, caption))
    if arguments.json:
        print(json.dumps(_numbers(outcomes, facts, entries, size)))
    else:
        print_table(outcomes, title, caption)
    return 0


def _numbers(
    outcomes: list[Outcome], facts: dict[str, str], entries: int, size: int
) -> dict[str, object]:
    baseline = compared_with(outcomes)
    return {
        **facts,
        "entries": entries,
        "bytes": size,
        "compared with": baseline and baseline.way,
        "methods": {
            outcome.way: {"error": outcome.reason}
            if outcome.reason is not None or baseline is None
            else {
                "median": outcome.median,
                "ratio": outcome.ratio(baseline),
                "disk": outcome.disk,
                "seconds": outcome.seconds,
            }
            for outcome in outcomes
        },
    }


def _count(tree: str) -> tuple[int, int]:
    """How many entries are below ``tree`` and how many bytes its files hold."""
    entries = size = 0
    for here, folders, files in os.walk(tree):
        entries += len(folders) + len(files)
        size += sum(os.lstat(os.path.join(here, name)).st_size for name in files)
    return entries, size


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "write the chart") from error


@contextmanager
def _scratch(place: str) -> Iterator[str]:
    """A new folder in ``place``, gone at the end, however that comes."""
    try:
        made = tempfile.mkdtemp(prefix=".reflayer-bench-", dir=place)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(place), "make a folder") from error
    try:
        yield made
    finally:
        remove_tree(made)


@contextmanager
def _watched(runs: int) -> Iterator[Callable[[str], None]]:
    """A callback that is told what begins now, and shows it where somebody watches."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=1 + (1 + len(METHODS)) * (1 + runs), completed=-1)
        yield lambda what: progress.update(bar, description=what, advance=1)
