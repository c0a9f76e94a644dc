"""``reflayer copy``."""

from __future__ import annotations

import sys

from reflayer.archive.methods import METHODS, copy_tree
from reflayer.cli.arguments import (
    JSON,
    any_path,
    at_least_one,
    option,
    ownership,
    takes,
    telling_of_ownership,
)
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import is_quiet, print_json, size_text
from reflayer.cli.progress_bars import bars
from reflayer.copy.report import CopyReport
from reflayer.errors import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace


@takes(
    option("src SRC", "the folder to copy", type=any_path),
    option("dst DST", "where the copy goes", type=any_path),
    option(
        "--method",
        "how content is copied: shared (reflink), by copy_file_range (range), read and "
        "written (stream), packed and unpacked as a tar (tar, to compare with), or auto, the "
        "default: the first of the first three that works here",
        choices=METHODS,
        default="auto",
    ),
    option(
        "--workers N",
        "threads that work on it; by default the processors that may be used",
        type=at_least_one,
    ),
    ownership("keep"),
    option("--cross-mounts", "copy what is mounted inside SRC, too", action="store_true"),
    JSON,
)
def copy(arguments: Namespace) -> int:
    """Make DST the same tree as the folder SRC. DST is absent or an empty folder.

    Everything is kept: content (shared where the file system can), owners, modes, times,
    extended attributes, ACLs, hard links, holes, devices. If it fails, DST is left as it was.
    """
    with telling_of_ownership(lambda: arguments.ownership), bars() as progress:
        report = copy_tree(
            arguments.src,
            arguments.dst,
            method=arguments.method,
            workers=arguments.workers,
            ownership=arguments.ownership,
            cross_mounts=arguments.cross_mounts,
            progress=progress,
        )
        ignore_signals()
    if arguments.json:
        print_json(report.as_dict())
    elif not is_quiet():
        print(_summary(report, arguments.ownership), file=sys.stderr)
    return 0


def _summary(report: CopyReport, ownership: str) -> str:
    """One line: entries, bytes, method, time, and what was left out."""
    entries, size = sum(report.entries.values()), sum(report.bytes.values())
    line = f"{entries:,} entries, {size_text(size)} by {report.method}, {report.seconds:.2f} s"
    how = "recorded or left out" if ownership == "record" else "left out"
    return f"{line}; {how}: {counted(report.skipped)}" if report.skipped else line
