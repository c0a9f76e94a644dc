"""``reflayer export``."""

from __future__ import annotations

import sys

from reflayer.cli.arguments import path
from reflayer.cli.names import complete_containers
from reflayer.cli.output import complain
from reflayer.cli.output_file import output_file
from reflayer.cli.progress import bars
from reflayer.errors import UsageError, counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import BinaryIO

    from reflayer.archive import Packing


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Write the root file system of a container as a tar, to FILE or to standard output.\n\n"
        "Owners, modes, extended attributes, times in nanoseconds, hard links, holes and devices\n"
        "are in it; sockets and what is mounted are not. GNU tar takes all of it out with\n"
        "  tar --xattrs --xattrs-include='*' -xpf FILE"
    )
    parser.add_argument(
        "name", metavar="NAME", help="its name, its id, or the beginning of its id"
    ).completer = complete_containers  # type: ignore[attr-defined]
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=path,
        help="write to FILE, which is replaced when all is written; by default to standard output",
    )


def run(arguments: Namespace) -> int:
    """Write it."""
    if arguments.output is not None:
        with output_file(arguments.output) as out:
            packing = _export(arguments, out)
    elif sys.stdout.isatty():
        raise UsageError("export: a tar is nothing for a terminal: give -o FILE")
    else:
        sys.stdout.flush()
        packing = _export(arguments, sys.stdout.buffer)
    if packing.skipped:
        complain(f"left out: {counted(packing.skipped)}")
    return 0


def _export(arguments: Namespace, out: BinaryIO) -> Packing:
    from reflayer.store import Store

    with bars() as report_to:
        return Store(arguments.root).export(arguments.name, out, progress=report_to)
