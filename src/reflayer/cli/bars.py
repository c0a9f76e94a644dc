"""Bars for long work: on standard error, and only where that is a terminal."""

from __future__ import annotations

import sys
import time

from reflayer.cli.output import size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from reflayer.progress import Progress

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


class bars:  # noqa: N801  # contextlib costs start-up time
    """A callback that draws one bar a stage while the block runs; None where nobody watches."""

    def __init__(self) -> None:
        self._start = time.monotonic() + _PATIENCE
        self._stack: ExitStack | None = None
        self._draw: Progress | None = None

    def __enter__(self) -> Progress | None:
        return self._report if sys.stderr.isatty() else None

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()

    def _report(self, stage: str, done: int, total: int | None) -> None:
        if self._draw is None:
            if time.monotonic() < self._start:
                return
            from contextlib import ExitStack, contextmanager

            self._stack = ExitStack()
            self._draw = self._stack.enter_context(contextmanager(_drawn)())
        self._draw(stage, done, total)


def _drawn() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars
    from rich.progress import TaskID as Bar

    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    bar_of: dict[str, Bar] = {}
    with Bars(*columns, console=Console(stderr=True), transient=True) as shown:

        def draw(stage: str, done: int, total: int | None) -> None:
            if stage not in bar_of:
                label = _LABELS.get(stage, stage)
                bar_of[stage] = shown.add_task(label, total=total, amount="")
            amount = _amount(done, total, stage in _IN_BYTES)
            shown.update(bar_of[stage], completed=done, total=total, amount=amount)

        yield draw


def _amount(done: int, total: int | None, in_bytes: bool) -> str:
    if not in_bytes:
        return f"{done:,} entries"
    return size_text(done) if total is None else f"{size_text(done)} of {size_text(total)}"
