"""``reflayer diff``."""

from __future__ import annotations

import os
import sys

from reflayer.cli.arguments import add_json
from reflayer.cli.names import complete_containers
from reflayer.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from reflayer.archive import Change


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "List what changed in a container since it was made, as Docker does:\n\n"
        "  A /path    added\n"
        "  C /path    changed; a folder where anything in it is\n"
        "  D /path    deleted, with all that was in it"
    )
    parser.add_argument(
        "name", metavar="NAME", help="its name, its id, or the beginning of its id"
    ).completer = complete_containers  # type: ignore[attr-defined]
    add_json(parser)


def run(arguments: Namespace) -> int:
    """List them."""
    from reflayer.store import Store

    changes = Store(arguments.root).changes(arguments.name)
    if arguments.json:
        _print_json(changes)
        return 0
    sys.stdout.flush()
    for change in changes:
        # A name must not give orders to a terminal; a script gets the bytes that it is.
        path = printable(change.path) if sys.stdout.isatty() else change.path
        sys.stdout.buffer.write(os.fsencode(f"{change.kind} {path}\n"))
    return 0


def _print_json(changes: Iterator[Change]) -> None:
    """Print one array, each change as it is met."""
    import json

    between = "["
    for change in changes:
        fields = {"kind": change.kind, "path": change.path}
        print(between, json.dumps(fields), sep="", end="")
        between = ", "
    print("[]" if between == "[" else "]")
