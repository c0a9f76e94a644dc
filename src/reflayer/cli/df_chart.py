"""What ``reflayer df`` shows on a terminal: its tables, with a bar for each line."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reflayer.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reflayer.store.usage import Space

    Line = tuple[tuple[str, ...], Space]  # its cells, and what its bar shows

_WIDTH = 24  # characters of the longest bar
_OWN, _SHARED = ("█", "bold cyan"), ("░", "cyan")


def print_chart(tables: Sequence[tuple[Sequence[str], Sequence[Line]]], total: str) -> None:
    """Print each table, which is its heads and its lines, and the line ``total``."""
    console = Console(highlight=False)
    spaces = [space for _, lines in tables for _, space in lines]
    longest = max((space.shared + space.own for space in spaces), default=0) or 1
    for heads, lines in tables:
        console.print(_table(heads, lines, longest))
    console.print(Text.assemble(_OWN, " own  ", _SHARED, " shared   ", total))


def _table(heads: Sequence[str], lines: Sequence[Line], longest: int) -> Table:
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
