"""``reflayer bench``."""

from __future__ import annotations

from reflayer.bench.methods import (
    compared_with,
    fastest,
    file_system,
    machine_facts,
    rivals,
    scratch,
)
from reflayer.bench.runs import alternate
from reflayer.bench.sample_tree import count, make_tree
from reflayer.cli.arguments import JSON, at_least_one, folder, option, takes
from reflayer.cli.bars import bars
from reflayer.cli.bench_chart import chart, time_text
from reflayer.cli.output import print_json, size_text
from reflayer.copy import copy_tree
from reflayer.driver import Driver
from reflayer.errors import failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from reflayer.bench.runs import Times

_LAYER = "image"
_ENTRIES = 6000  # of the tree that is made: as many as a minimal Debian has


@takes(
    option(
        "folder DIR", "where; by default the current folder", nargs="?", type=folder, default="."
    ),
    option(
        "--tree DIR",
        "measure with a copy of this folder; by default a tree like a small distribution's "
        "is made, always the same",
        type=folder,
    ),
    option(
        "--runs N",
        "how often each method is measured; the median counts (default: 5)",
        type=at_least_one,
        default=5,
    ),
    option("--plot FILE", "draw a chart, as SVG"),
    JSON,
)
def bench(arguments: Namespace) -> int:
    """Measure each method of making a container's tree in the folder DIR.

    The methods run in turn, side by side with cp -a, in a new folder of DIR that is
    removed at the end, however it ends.
    """
    place, tree, runs = arguments.folder, arguments.tree, arguments.runs
    with scratch(place) as home, bars() as progress:
        with Driver(home).build(_LAYER) as layer:
            if tree is None:
                make_tree(layer, _ENTRIES)
            else:
                copy_tree(tree, layer)
            entries, size = count(layer)
        measured = alternate(rivals(home, _LAYER), home, runs, progress, may_fail=True)
    facts = {**machine_facts(), "file system": file_system(place)}
    title = (
        f"Making a container of {entries:,} entries, {size_text(size)}, on {facts['file system']}"
    )
    caption = f"Median of {runs}, {facts['processor']}, {facts['kernel']}, {facts['date']}"
    if arguments.plot is not None:
        with failing(arguments.plot, "write the chart"), open(arguments.plot, "w") as file:
            file.write(chart(measured, title, caption))
    if arguments.json:
        print_json({**facts, "entries": entries, "bytes": size, **_numbers(measured)})
    else:
        _print_table(measured, title, caption)
    return 0


def _numbers(measured: Sequence[Times]) -> dict[str, object]:
    baseline = compared_with(measured)
    return {
        "compared with": baseline and baseline.name,
        "methods": {
            times.name: {"error": times.missing}
            if times.missing is not None or baseline is None
            else {
                "median": times.median,
                "ratio": baseline.ratio_of(times)[0],
                "disk": times.disk,
                "seconds": times.seconds,
            }
            for times in measured
        },
    }


def _print_table(measured: Sequence[Times], title: str, caption: str) -> None:
    """Print the fastest in bold, and the times as parts of the baseline's."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    baseline = compared_with(measured)
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE
    )
    table.add_column("method", no_wrap=True)
    table.add_column("how")
    ratio = "ratio" if baseline is None else f"x {baseline.name}"
    for heading in ("median", "from", "to", ratio, "on disk"):
        table.add_column(heading, justify="right")
    for times in measured:
        if times.missing is None and baseline is not None:
            table.add_row(
                times.name,
                times.about,
                time_text(times.median),
                time_text(min(times.seconds)),
                time_text(max(times.seconds)),
                f"{baseline.ratio_of(times)[0]:.2f}",
                size_text(times.disk),
                style="bold" if times is fastest(measured) else None,
            )
    console = Console(highlight=False)
    console.print(table)
    for times in measured:
        if times.missing is not None:
            console.print(f"{times.name} does not work here: {times.missing}")
