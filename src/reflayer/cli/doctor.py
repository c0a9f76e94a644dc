"""``reflayer doctor``."""

from __future__ import annotations

import os
import sys

from reflayer.cli.arguments import JSON, folder, option, takes
from reflayer.cli.output import coloured, filled, print_json, size_text, terminal_width
from reflayer.errors import LayerError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from reflayer.doctor import Findings


_BAR = 24  # characters of the bar that shows how full the disk is
_NARROWEST = 30  # characters of a line, however narrow the terminal is


@takes(
    option(
        "folder DIR",
        "the folder; by default the store's, or the nearest above it that is there",
        nargs="?",
        type=folder,
    ),
    option(
        "--make-whole",
        "do not tell anything: make all layers of a driver's home whole, as Docker's own vfs "
        "driver needs them; by default of the store's layers",
        action="store_true",
    ),
    JSON,
)
def doctor(arguments: Namespace) -> int:
    """Tell what a folder's file system can do for layers: which methods of cloning work, found
    out by trying in a folder made there for the moment; whether clones share their blocks;
    which owners there can be, and what else this user cannot keep; whether the part in C is
    in use; what reflayer run runs commands by, and what that keeps apart; and what to change
    for better. Of the data root of a Docker daemon it also tells the layers that the daemon
    has no record of.

    With --make-whole DIR is the home of a driver, say /var/lib/docker/reflayer: each layer
    that is a difference on another becomes a tree of its own, as vfs has them. New layers
    are differences again.
    """
    from reflayer.doctor import examine
    from reflayer.linux.user_namespace import why_no_namespaces
    from reflayer.record import as_dict, replace
    from reflayer.sandbox.runtimes import find, isolation, passed_over
    from reflayer.store import default_root

    root = os.path.abspath(arguments.root or default_root())
    if arguments.make_whole:
        return _make_whole(arguments.folder or f"{root}/layers")
    where = arguments.folder or _nearest(root)
    findings = examine(where)
    runtime = find()
    name, isolates, others = runtime.program, isolation(runtime), passed_over(runtime)
    if why := why_no_namespaces():
        findings = replace(findings, advice=(*findings.advice, f"reflayer run runs nothing: {why}"))
        name, isolates, others = "", (), {}
    if arguments.json:
        runs = {"runtime": name, "isolation": list(isolates), "passed_over": others}
        print_json({**as_dict(findings), **runs})
    else:
        own = name and runtime.name == "namespaces"
        by = "namespaces of reflayer's own" if own else name or "no: namespaces are not permitted"
        unused = ((f"  {other}", f"no: {reason}") for other, reason in others.items())
        _print(findings, [("Run by", by), *(("", line) for line in isolates), *unused])
    return 0


def _make_whole(home: str) -> int:
    from reflayer.cli.progress_bars import bars
    from reflayer.driver import Driver

    if not os.path.isdir(f"{home}/dir"):
        raise LayerError(f"{printable(home)} is no driver's home: there is no folder dir in it")
    with bars() as progress:
        Driver(home).make_all_whole(
            progress=progress and (lambda _, done, total: progress("whole", done, total))
        )
    return 0


def _nearest(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _print(findings: Findings, more: list[tuple[str, str]]) -> None:
    lines = [
        ("Folder", findings.folder),
        ("File system", findings.file_system),
        ("Free", _free(findings.folder)),
        ("Part in C", f"not in use: {findings.pure}" if findings.pure else "in use"),
        ("Method", f"{findings.method} (what auto takes)"),
        ("Shared blocks", "yes" if findings.shares_blocks else "no"),
        *(
            (f"  {name}", f"no: {why}" if why else "works")
            for name, why in findings.methods.items()
        ),
        ("Owners", findings.owners),
        *(
            (f"  {what}", f"lost: {why}" if why else "kept")
            for what, why in findings.metadata.items()
        ),
        *more,
    ]
    width = max(len(head) for head, _ in lines) + 2
    for head, text in lines:
        first = f"{head and head + ':':{width}}"
        print(first + _in_colour(_filled(printable(text), width)))
    for advice in findings.advice:
        print(f"\n{_filled(advice, 0)}")


def _free(folder: str) -> str:
    """How much room there is, with a bar of what is taken where a terminal shows it."""
    status = os.statvfs(folder)
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    text = f"{size_text(free)} of {size_text(size)}"
    if not sys.stdout.isatty() or not size:
        return text
    taken = round(_BAR * (1 - free / size))
    return f"{text}  {'█' * taken}{'░' * (_BAR - taken)}"


def _filled(text: str, indent: int) -> str:
    """``text`` in lines that fit the terminal, the first not indented; elsewhere as it is."""
    if not sys.stdout.isatty():
        return text
    width = max(terminal_width() - indent, _NARROWEST)
    lines = "\n".join(filled(line, width) for line in text.splitlines())
    return lines.replace("\n", "\n" + " " * indent)


def _in_colour(text: str) -> str:
    """What is well in green, what is not in yellow; all else is no verdict."""
    if text in ("works", "kept", "yes", "in use"):
        return coloured(text, "green")
    first, colon, rest = text.partition(":")
    if text == "no" or (colon and first in ("no", "lost", "not in use")):
        return coloured(first, "yellow") + colon + rest
    return text
