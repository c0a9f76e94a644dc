"""Bars for long work: on standard error, and only where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

Report = Callable[[str, int, int | None], None]
"""What the bars are told: a stage, how much of it is done and, where it is known, of how much."""

_LABELS = {
    "fetch": "fetching",
    "unpack": "unpacking",
    "clone": "cloning",
    "pack": "packing",
    "measure": "measuring",
    "push": "pushing",
    "write": "writing",
}
_IN_BYTES = ("fetch", "unpack", "pack", "push", "write")


_PATIENCE = 0.4  # seconds: what takes less needs no bar, and the import of rich takes a third of it


@contextmanager
def bars() -> Iterator[Report | None]:
    """A callback that draws one bar a stage while the block runs; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    start = time.monotonic() + _PATIENCE
    with ExitStack() as stack:
        draw: Report | None = None

        def report(stage: str, done: int, total: int | None) -> None:
            nonlocal draw
            if draw is None:
                if time.monotonic() < start:
                    return
                draw = stack.enter_context(_drawn())
            draw(stage, done, total)

        yield report


@contextmanager
def _drawn() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TaskID as Bar

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    bar_of: dict[str, Bar] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def draw(stage: str, done: int, total: int | None) -> None:
            if stage not in bar_of:
                label = _LABELS.get(stage, stage)
                bar_of[stage] = progress.add_task(label, total=total, amount="")
            amount = _amount(done, total, stage in _IN_BYTES)
            progress.update(bar_of[stage], completed=done, total=total, amount=amount)

        yield draw


def _amount(done: int, total: int | None, in_bytes: bool) -> str:
    if not in_bytes:
        return f"{done:,} entries"
    return size_text(done) if total is None else f"{size_text(done)} of {size_text(total)}"


def size_text(size: int) -> str:
    """A size for people: three digits and a decimal unit, as Docker prints it."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.4g}TB"
