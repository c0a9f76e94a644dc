"""``reflayer doctor``."""

from __future__ import annotations

import os

from reflayer.cli.arguments import JSON, folder, option, takes
from reflayer.cli.output import print_json
from reflayer.errors import LayerError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from reflayer.doctor import Findings


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
    from reflayer.record import as_dict
    from reflayer.sandbox.runtimes import find, isolation
    from reflayer.store import default_root

    root = os.path.abspath(arguments.root or default_root())
    if arguments.make_whole:
        return _make_whole(arguments.folder or f"{root}/layers")
    where = arguments.folder or _nearest(root)
    findings = examine(where)
    runtime = find()
    isolates = isolation(runtime)
    if arguments.json:
        runs = {"runtime": runtime.program, "isolation": list(isolates)}
        print_json({**as_dict(findings), **runs})
    else:
        own = runtime.name == "namespaces"
        name = "namespaces of reflayer's own: crun does more" if own else runtime.program
        _print(findings, [("Run by", name), *(("", line) for line in isolates)])
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
    width = max(len(head) for head, _ in lines)
    for head, text in lines:
        print(f"{head and head + ':':{width + 1}} {printable(text)}")
    for advice in findings.advice:
        print(f"\n{advice}")
