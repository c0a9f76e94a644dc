"""What ``reflayer df`` shows in a terminal: its tables with a bar for each line."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reflayer.cli.df_lines import (
    CONTAINER_HEADS,
    IMAGE_HEADS,
    container_cells,
    image_cells,
    total_line,
)
from reflayer.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reflayer.store.blocks import Space
    from reflayer.store.usage import Usage

_WIDTH = 24  # characters of the longest bar
_OWN, _SHARED = ("█", "bold cyan"), ("░", "cyan")


def print_bars(usage: Usage) -> None:
    """Print it on standard output."""
    console = Console(highlight=False)
    spaces = [one.space for one in usage.containers] + [one.space for one in usage.images]
    longest = max((space.shared + space.own for space in spaces), default=0) or 1
    if usage.containers:
        lines = [(container_cells(one), one.space) for one in usage.containers]
        console.print(_table(CONTAINER_HEADS, lines, longest))
    if usage.images:
        image_lines = [(image_cells(one), one.space) for one in usage.images]
        console.print(_table(IMAGE_HEADS, image_lines, longest))
    legend = Text.assemble(_OWN, " own  ", _SHARED, " shared   ", total_line(usage))
    console.print(legend)


def _table(
    heads: Sequence[str], lines: Sequence[tuple[tuple[str, ...], Space]], longest: int
) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(
            head, justify="left" if head == heads[0] else "right", overflow="fold"
        )  # fmt: skip
    table.add_column("", no_wrap=True)
    for cells, space in lines:
        table.add_row(*(Text(printable(cell)) for cell in cells), _bar(space, longest))
    table.add_row()
    return table


def _bar(space: Space, longest: int) -> Text:
    """Own first, then shared; what is there at all is seen."""
    own = _characters(space.own, longest)
    shared = _characters(space.shared, longest)
    return Text.assemble((_OWN[0] * own, _OWN[1]), (_SHARED[0] * shared, _SHARED[1]))


def _characters(size: int, longest: int) -> int:
    return max(1, round(_WIDTH * size / longest)) if size else 0
