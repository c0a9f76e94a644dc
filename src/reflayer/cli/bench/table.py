"""The outcomes as a table for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from reflayer.cli.bench.runs import Outcome, compared_with, fastest
from reflayer.cli.progress import size_text


def print_table(outcomes: list[Outcome], title: str, caption: str) -> None:
    """Print them, the fastest in bold, with their times as parts of the baseline's."""
    baseline = compared_with(outcomes)
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE
    )
    table.add_column("method", no_wrap=True)
    table.add_column("how")
    ratio = "ratio" if baseline is None else f"x {baseline.way}"
    for heading in ("median", "from", "to", ratio, "on disk"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        if outcome.reason is None and baseline is not None:
            table.add_row(
                outcome.way,
                outcome.about,
                time_text(outcome.median),
                time_text(min(outcome.seconds)),
                time_text(max(outcome.seconds)),
                f"{outcome.ratio(baseline):.2f}",
                size_text(outcome.disk),
                style="bold" if outcome is fastest(outcomes) else None,
            )
    console = Console(highlight=False)
    console.print(table)
    for outcome in outcomes:
        if outcome.reason is not None:
            console.print(f"{outcome.way} does not work here: {outcome.reason}")


def time_text(seconds: float) -> str:
    """A time for people: milliseconds below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
