"""Bars for long work: on standard error, and only where that is a terminal."""

from __future__ import annotations

import sys
import time

from reflayer.cli.output import size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from reflayer.progress import Progress

_LABELS = {
    "fetch": "fetching",
    "unpack": "unpacking",
    "clone": "cloning",
    "pack": "packing",
    "measure": "measuring",
    "push": "pushing",
    "write": "writing",
    "spares": "warming",
}
_IN_ENTRIES = ("clone", "measure")  # the others of these count bytes
_PATIENCE = 0.4  # seconds: what takes less needs no bar, and the import of rich takes a third of it


class bars:  # noqa: N801  # contextlib costs start-up time
    """A callback that draws one bar a stage while the block runs; None without a terminal."""

    def __init__(self) -> None:
        self._start = time.monotonic() + _PATIENCE
        self._shown: Bars | None = None
        self._bar_of: dict[str, TaskID] = {}

    def __enter__(self) -> Progress | None:
        return self._draw if sys.stderr.isatty() else None

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()

    def _draw(self, stage: str, done: int, total: int | None) -> None:
        if self._shown is None:
            if time.monotonic() < self._start:
                return
            self._shown = _begin()
        if stage not in self._bar_of:
            label = _LABELS.get(stage, stage)
            self._bar_of[stage] = self._shown.add_task(label, total=total, amount="")
        amount = _amount(stage, done, total)
        self._shown.update(self._bar_of[stage], completed=done, total=total, amount=amount)


def _begin() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    shown.start()
    return shown


def _amount(stage: str, done: int, total: int | None) -> str:
    if stage in _IN_ENTRIES:
        return f"{done:,} entries"
    if stage == "spares" or stage not in _LABELS:
        return f"{done} of {total}"
    return size_text(done) if total is None else f"{size_text(done)} of {size_text(total)}"
