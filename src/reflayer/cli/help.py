"""``reflayer`` alone, and ``reflayer --help``.

Commands have argparse's: here, to import it would take most of the time.
"""

from __future__ import annotations

from reflayer.cli.commands import GROUPS, Arguments, add_quiet, add_root
from reflayer.cli.output import WIDTH, filled, terminal_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIPTION = "Container layers as plain directories, cloned in the kernel."
EPILOG = """\
What a script wants is the only thing on standard output; progress and messages go to standard
error. The exit status is 0, 1 (failed) or 2 (wrong usage). After --json, and for all commands with
REFLAYER_ERRORS=json in the environment, an error is a JSON object with a code that stays. "reflayer
COMMAND --help" tells more.
"""
VERSION = "show the version and exit"
_USAGE = "usage: reflayer [--root DIR] [--quiet] COMMAND ..."
_START = {
    "reflayer create IMAGE": "a container: a folder, whose path is printed",
    "reflayer run IMAGE COMMAND": "a command in a new one, or one that is there",
    "reflayer ps": "the containers that there are",
    "reflayer diff NAME": "what changed in one",
    "reflayer commit NAME IMAGE": "an image of it",
    "reflayer rm NAME": "away with it",
}
_MORE = "reflayer --help lists all commands, reflayer COMMAND --help tells of one."
_NARROW, _WIDE = 21, 32  # columns, the longest of what is explained and some spaces


def start_text() -> str:
    """What people start with."""
    lines = "\n".join(_lines(_START, _WIDE))
    return f"{_USAGE}\n\n{lines}\n\n{filled(_MORE, _width())}\n"


def help_text() -> str:
    """As wide as the terminal, and at most 80 columns."""
    taken = Arguments()
    add_root(taken)  # type: ignore[arg-type]
    add_quiet(taken)  # type: ignore[arg-type]
    options = {
        "-h, --help": "show this help and exit",
        "--version": VERSION,
        "--root DIR": taken.options["--root"].help,
        "--quiet": taken.options["--quiet"].help,
    }
    groups = {title: {name: one[1] for name, one in GROUPS[title].items()} for title in GROUPS}
    parts = [_USAGE, DESCRIPTION]
    for title, told in {**groups, "options": options}.items():
        parts.append("\n".join([f"{title}:", *_lines(told, _NARROW)]))
    return "\n\n".join([*parts, filled(EPILOG.replace("\n", " ").strip(), _width())]) + "\n"


def _lines(told: Mapping[str, str], indent: int) -> list[str]:
    """Each word and what it means, which begins in the column ``indent``."""
    lines = (f"  {name:{indent - 2}}{words}" for name, words in told.items())
    return [filled(line, _width(), " " * indent) for line in lines]


def _width() -> int:
    return min(terminal_width(), WIDTH)
