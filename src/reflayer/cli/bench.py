"""``reflayer bench``, and its chart: an SVG file with a bar for each method."""

from __future__ import annotations

from html import escape

from reflayer.bench.methods import (
    BASELINE,
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
from reflayer.cli.output import print_json, size_text
from reflayer.cli.progress_bars import bars
from reflayer.copy import copy_tree
from reflayer.driver import Driver
from reflayer.errors import failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from rich.console import Console

    from reflayer.bench.runs import Times

_LAYER = "image"
_NARROW = 80  # columns of the chart in the terminal
_ENTRIES = 6000  # of the tree that is made: as many as a minimal Debian has

# Of the chart, in pixels:
_WIDTH, _MARGIN = 860, 28
_LEFT, _RIGHT = 250, 640  # where bars begin, and where the longest ends
_TOP, _ROW, _BAR = 96, 46, 22
_TICKS = 5  # at the most
_STYLE = """
  text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif; fill: #1f2933 }
  .title { font-size: 19px; font-weight: 600 }
  .small { font-size: 12px; fill: #68737f }
  .name { font-size: 14px; font-weight: 600 }
  .value { font-size: 13px }
  .grid { stroke: #e4e7eb; stroke-width: 1 }
  .axis { stroke: #9aa5b1; stroke-width: 1 }
  .best { fill: #0b7a75 }
  .ours { fill: #6fb8b3 }
  .other { fill: #b8c1cb }
"""


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
    if console.is_terminal:
        _print_bars(measured, console)
    for times in measured:
        if times.missing is not None:
            console.print(f"{times.name} does not work here: {times.missing}")


def _print_bars(measured: Sequence[Times], console: Console) -> None:
    """Print the medians as bars, the fastest in colour."""
    from rich.text import Text

    shown = [times for times in measured if times.missing is None]
    longest = max((times.median for times in shown), default=1.0)
    name = max((len(times.name) for times in shown), default=0)
    width = max(10, min(console.width, _NARROW) - name - 14)
    for times in shown:
        bar = "█" * max(1, round(width * times.median / longest))
        style = "green" if times is fastest(measured) else ""
        console.print(
            Text.assemble(f" {times.name:{name}} ", (bar, style), f" {time_text(times.median)}")
        )
    console.print()


def chart(measured: Sequence[Times], title: str, caption: str) -> str:
    """The text of an SVG file: medians as horizontal bars, in the order given."""
    baseline = compared_with(measured)
    best = fastest(measured)
    longest = max((times.median for times in measured if times.missing is None), default=1.0)
    bottom = _TOP + _ROW * len(measured)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom + 62}" '
        f'viewBox="0 0 {_WIDTH} {bottom + 62}" role="img">',
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(_MARGIN, 42, "title", title),
        _text(_MARGIN, 66, "small", "median time, shorter is better"),
        *_grid(longest, bottom),
    ]
    for number, times in enumerate(measured):
        kind = "other" if times.name == BASELINE else "best" if times is best else "ours"
        parts += _row(times, baseline, kind, _TOP + _ROW * number, longest)
    axis = f'<line class="axis" x1="{_LEFT}" y1="{_TOP - 6}" x2="{_LEFT}" y2="{bottom}"/>'
    parts += [axis, _text(_MARGIN, bottom + 46, "small", caption), "</svg>\n"]
    return "\n".join(parts)


def _row(times: Times, baseline: Times | None, kind: str, top: int, longest: float) -> list[str]:
    middle = top + _ROW // 2
    parts = [
        _text(_MARGIN, middle - 3, "name", times.name),
        _text(_MARGIN, middle + 13, "small", times.about),
    ]
    if times.missing is not None or baseline is None:
        reason = f"does not work here: {times.missing}"
        return [*parts, _text(_LEFT + 10, middle + 4, "small", reason)]
    width = max(2.0, (_RIGHT - _LEFT) * times.median / longest)
    value = time_text(times.median)
    if times is not baseline:
        value += f", {baseline.ratio_of(times)[0]:.2f} x {baseline.name}"
    return [
        *parts,
        f'<rect class="{kind}" x="{_LEFT}" y="{middle - _BAR // 2}" width="{width:.1f}" '
        f'height="{_BAR}" rx="3"/>',
        _text(_LEFT + width + 10, middle + 5, "value", value),
    ]


def _grid(longest: float, bottom: int) -> list[str]:
    """Lines at round times, each with its time below."""
    step = _round_step(longest)
    parts = []
    for number in range(1, int(longest / step) + 1):
        x = _LEFT + (_RIGHT - _LEFT) * number * step / longest
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>'
        )
        parts.append(_text(x, bottom + 18, "small", time_text(number * step), anchor="middle"))
    return parts


def _round_step(longest: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that needs few lines, in seconds."""
    steps = (factor * 10.0**power for power in range(-4, 6) for factor in (1, 2, 5))
    return next(step for step in steps if longest / step <= _TICKS)


def _text(x: float, y: float, kind: str, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def time_text(seconds: float) -> str:
    """A time for people: milliseconds below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
