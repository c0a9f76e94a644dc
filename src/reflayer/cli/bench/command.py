"""``reflayer bench``."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from reflayer.cli.bench.chart import chart
from reflayer.cli.bench.machine import machine_facts
from reflayer.cli.bench.runs import Outcome, compared_with, measure
from reflayer.cli.bench.sample import make_tree
from reflayer.cli.bench.table import print_table
from reflayer.cli.bench.ways import ways
from reflayer.cli.progress import size_text
from reflayer.copy import copy_tree, remove_tree
from reflayer.errors import OperationError

_ENTRIES = 6000  # of the tree that is made: as many as a minimal Debian has


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, writable=True), default=".")
@click.option(
    "--tree",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Measure with a copy of this folder. By default a tree like a small distribution's is "
    "made, always the same.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often each method is measured; the median counts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON.")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True),
    help="Draw a chart, an SVG file.",
)
def bench(path: str, tree: str | None, runs: int, as_json: bool, plot: str | None) -> None:
    """Measure each method of making a container's tree in the folder PATH.

    The methods run in turn, side by side with cp -a, in a new folder of PATH that is removed at
    the end, however it ends. PATH is the current folder if it is not given.
    """
    with _scratch(path) as scratch, _watched(runs) as watch:
        source = os.path.join(scratch, "tree")
        watch("making the tree")
        if tree is None:
            os.mkdir(source, 0o755)
            make_tree(source, _ENTRIES)
        else:
            copy_tree(tree, source)
        entries, size = _count(source)
        outcomes = measure(ways(), source, scratch, runs, watch)
    facts = machine_facts(path)
    title = f"Making a tree of {entries:,} entries, {size_text(size)}, on {facts['file system']}"
    caption = f"Median of {runs}, {facts['processor']}, {facts['kernel']}, {facts['date']}"
    if plot is not None:
        _write(plot, chart(outcomes, title, caption))
    if as_json:
        click.echo(json.dumps(_numbers(outcomes, facts, entries, size)))
    else:
        print_table(outcomes, title, caption)


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
    for folder, folders, files in os.walk(tree):
        entries += len(folders) + len(files)
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
    return entries, size


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "write the chart") from error


@contextmanager
def _scratch(place: str) -> Iterator[str]:
    """A new folder in ``place``, gone at the end: on an error, on Ctrl-C and on SIGTERM too."""
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        folder = tempfile.mkdtemp(prefix=".reflayer-bench-", dir=place)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(place), "make a folder") from error
    try:
        yield folder
    finally:
        remove_tree(folder)
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


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
        bar = progress.add_task("", total=1 + len(ways()) * (1 + runs), completed=-1)
        yield lambda what: progress.update(bar, description=what, advance=1)
