"""What is printed: paths, tables, JSON, and complaints."""

from __future__ import annotations

import os
import sys

from reflayer.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reflayer.store import Container

_GAP = "   "
_LONGEST = 500  # characters of a message


def complain(message: object) -> None:
    """Print an error or remark on standard error; where nobody can get it, nothing is printed."""
    try:
        print(f"reflayer: {one_line(str(message))}", file=sys.stderr, flush=True)
    except OSError:
        return


def one_line(message: str) -> str:
    """``message`` without what gives orders to a terminal; the middle of a long one is left out."""
    text = printable(message)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def print_path(path: str) -> None:
    """Print a path as the bytes that it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def print_json(value: object) -> None:
    """Print JSON."""
    import json

    print(json.dumps(value))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Docker does: a line of heads, columns as wide as they have to be."""
    lines = [heads, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print(_GAP.join(cells).rstrip())


def container_fields(container: Container) -> dict[str, object]:
    """A container for JSON."""
    from reflayer.cli.times import timestamp

    return {
        "id": container.id,
        "name": container.name,
        "image": container.image,
        "image_id": container.image_id,
        "created": timestamp(container.created),
        "path": container.path,
    }
