"""What is printed: complaints, paths, tables, JSON; sizes and times for people."""

from __future__ import annotations

import os
import sys
import time

from reflayer.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 500  # characters of a message

_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_UNITS = (  # from so many seconds on, in this unit
    (2 * 365 * _DAY, 365 * _DAY, "years"),
    (2 * 30 * _DAY, 30 * _DAY, "months"),
    (2 * 7 * _DAY, 7 * _DAY, "weeks"),
    (2 * _DAY, _DAY, "days"),
    (2 * _HOUR, _HOUR, "hours"),
    (2 * _MINUTE, _MINUTE, "minutes"),
    (2, 1, "seconds"),
)


def complain(message: object) -> None:
    """Print an error or remark on standard error; nothing where that is shut or full."""
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
    lines = [tuple(heads), *map(_printable_row, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "   ".join(f"%-{width}s" for width in widths)
    print("\n".join([(form % line).rstrip() for line in lines]))


def _printable_row(row: Sequence[str]) -> tuple[str, ...]:
    if "".join(row).isprintable():  # in one look, of thousands of rows
        return tuple(row)
    return tuple(map(printable, row))


def size_text(size: int) -> str:
    """A size in bytes for people: three digits and a decimal unit, as Docker prints it."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{amount:.4g}TB"


def ago(then: float) -> str:
    """How long ago ``then`` was, in seconds since 1970, as Docker says it: ``2 hours ago``."""
    passed = time.time() - then
    if passed < 0:
        return "in the future"
    for start, unit, name in _UNITS:
        if passed >= start:
            if _HOUR <= passed < 2 * _HOUR:
                return "About an hour ago"
            if _MINUTE <= passed < 2 * _MINUTE:
                return "About a minute ago"
            return f"{int(passed / unit)} {name} ago"
    return "1 second ago" if passed >= 1 else "Less than a second ago"


def timestamp(then: float) -> str:
    """``then``, in seconds since 1970, as RFC 3339 has it."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(then, UTC).isoformat().replace("+00:00", "Z")


def seconds_of(text: str | None) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None where it is none."""
    from datetime import datetime

    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):  # whoever built the image wrote what he liked
        return None
