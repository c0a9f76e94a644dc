"""What is printed: complaints, paths, tables, JSON; sizes and times for people."""

from __future__ import annotations

import errno
import os
import sys
import time

from reflayer.errors import OperationError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from reflayer.errors import ReflayerError

_LONGEST = 500  # characters of a message
_BETWEEN = "   "  # two columns of a table
WIDTH = 80  # columns of a terminal that does not tell
_COLOURS = {"red": 31, "green": 32, "yellow": 33}
_RUNNING = frozenset(("run", "exec", "spec", "unshare"))  # what follows them may be a program's
_NARROWEST = 8  # characters of a column that is cut
_TREE = " *-"  # what stands before a name in a tree of them

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


_quiet = False


def be_quiet() -> None:
    """From now on there is no progress, and remarks are left out: for ``--quiet``."""
    global _quiet
    _quiet = True


def is_quiet() -> bool:
    """Whether nobody wants to hear what is no failure."""
    return _quiet


def remark(message: object) -> None:
    """Print on standard error what is no failure, unless ``--quiet`` says not to."""
    if not _quiet:
        complain(message)


def complain(message: object) -> None:
    """Print an error on standard error; nothing where that is shut or full."""
    try:
        print(f"reflayer: {one_line(str(message))}", file=sys.stderr, flush=True)
    except OSError:
        return


def complain_of(error: ReflayerError) -> None:
    """Print an error: in a line, or as an object with its code for whom it is to be JSON."""
    fields: dict[str, object] = {}
    if isinstance(error, OperationError):
        fields = {"path": error.path, "errno": errno.errorcode.get(error.errno or 0)}
    complain_with(error.code, error, **fields)


def complain_with(code: str, message: object, **fields: object) -> None:
    """Print what is no error of ours as one."""
    if not wants_json():
        complain(message)
        return
    import json

    told = {"code": code, "message": str(message), **fields}
    try:
        print(json.dumps({"error": told}), file=sys.stderr, flush=True)
    except OSError:
        return


def wants_json() -> bool:
    """Whether errors are to be JSON.

    That is said by the environment, or by ``--json``, which is no word of a program that is to run.
    """
    if os.environ.get("REFLAYER_ERRORS") == "json":
        return True
    return "--json" in sys.argv and not _RUNNING.intersection(sys.argv[1:5])


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


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, has_spare: bool = False
) -> None:
    """Print a table as Docker does: a line of heads, columns as wide as they have to be.

    On a terminal that is too narrow the longest names lose their middle; before that the last
    column is left out where it is a spare one.
    """
    lines = [tuple(heads), *map(_printable_row, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        most = terminal_width()
        if has_spare and sum(widths) + len(_BETWEEN) * (len(widths) - 1) > most:
            lines, widths = [line[:-1] for line in lines], widths[:-1]
        columns = zip(*lines, strict=True)
        is_prose = [any(" " in cell.lstrip(_TREE) for cell in column[1:]) for column in columns]
        widths = _fitting(widths, is_prose, most)
        # The beginning of an id is one, too.
        cuts = [_cut if head.endswith(" ID") else _shortened for head in lines[0]]
        lines = [
            tuple([cut(cell, width) for cut, cell, width in zip(cuts, line, widths, strict=True)])
            for line in lines
        ]
    form = _BETWEEN.join(f"%-{width}s" for width in widths)
    print("\n".join([(form % line).rstrip() for line in lines]))


def _fitting(widths: list[int], is_prose: list[bool], most: int) -> list[int]:
    """The widths of columns that are ``most`` wide together: those that are no prose give way."""
    most -= len(_BETWEEN) * (len(widths) - 1)
    while sum(widths) > most:
        widest = max(0 if prose else width for width, prose in zip(widths, is_prose, strict=True))
        if widest <= _NARROWEST:
            break
        at = next(n for n, width in enumerate(widths) if width == widest and not is_prose[n])
        widths[at] -= 1
    return widths


def terminal_width() -> int:
    """The columns of the terminal that standard output is."""
    try:
        return os.get_terminal_size(1).columns or WIDTH
    except OSError:
        return WIDTH


def filled(text: str, width: int, rest: str = "") -> str:
    """``text`` in lines of at most ``width`` characters where its words allow it.

    All but the first begin with ``rest``. (To import ``textwrap`` takes longer than most commands.)
    """
    lines, line = [], ""
    for number, word in enumerate(text.split(" ")):
        if line.strip() and len(line) + 1 + len(word) > width:
            lines.append(line.rstrip())
            line = rest + word
        else:
            line += " " * (number > 0) + word
    return "\n".join([*lines, line])


def coloured(text: str, colour: str) -> str:
    """``text`` in ``green``, ``yellow`` or ``red``, on a terminal of who wants colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def _cut(text: str, width: int) -> str:
    return text[:width]


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{text[: width - 1 - half]}…{text[-half:]}"


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
    if text is None:
        return None
    if TYPE_CHECKING:
        from datetime import datetime
    else:
        try:
            from _datetime import datetime  # around it is the same once more, in Python
        except ImportError:
            from datetime import datetime
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):  # whoever built the image wrote what he liked
        return None
