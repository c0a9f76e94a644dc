"""Bars for long work: on standard error, and only where that is a terminal."""

from __future__ import annotations

import sys
import time

from reflayer.cli.output import is_quiet, size_text

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
_MEASURED = 1.0  # seconds after which a rate is known
_MINUTE = 60
_PATIENCE = 0.4  # seconds: what takes less needs no bar, and the import of rich takes a third of it


class bars:  # noqa: N801  # contextlib costs start-up time
    """A callback that draws one bar a stage while the block runs; None without a terminal."""

    def __init__(self) -> None:
        self._start = time.monotonic() + _PATIENCE
        self._shown: Bars | None = None
        self._bar_of: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Progress | None:
        return self._draw if sys.stderr.isatty() and not is_quiet() else None

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()

    def _draw(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        since, before = self._begun.setdefault(stage, (now, done))
        if self._shown is None:
            if now < self._start:
                return
            self._shown = _begin()
        from reflayer.progress import Stage

        if stage not in self._bar_of:
            label = _LABELS.get(stage, stage)
            self._bar_of[stage] = self._shown.add_task(label, total=total, amount="")
        words = [_amount(stage, done, total)]
        if stage in _LABELS and now - since > _MEASURED:
            words += _rate(stage, (done - before) / (now - since), done, total)
        if isinstance(stage, Stage) and stage.under_way and stage.layers > 1:
            some = ", ".join(map(str, stage.under_way))
            words.append(f"layer{'s' * (len(stage.under_way) > 1)} {some} of {stage.layers}")
        amount = ", ".join(words)
        self._shown.update(self._bar_of[stage], completed=done, total=total, amount=amount)


def _begin() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    shown = Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(20),
        TextColumn("{task.fields[amount]}", table_column=Column(no_wrap=True)),
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


def _rate(stage: str, rate: float, done: int, total: int | None) -> list[str]:
    """How much in a second, and how long the rest takes at that."""
    if rate <= 0 or stage == "spares":
        return []
    said = [f"{rate:,.0f}/s" if stage in _IN_ENTRIES else f"{size_text(int(rate))}/s"]
    if total is not None and done < total:
        seconds = round((total - done) / rate)
        left = f"{seconds} s" if seconds < _MINUTE else f"{seconds // 60}:{seconds % 60:02} min"
        said.append(f"{left} left")
    return said
