"""The commands ``checkpoint``, ``rollback``, ``fork`` and ``checkpoints``."""

from __future__ import annotations

import os

from reflayer.cli.arguments import (
    JSON,
    at_least_one,
    container_name,
    open_store,
    option,
    takes,
)
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import ago, print_json, print_path, print_table, size_text, timestamp
from reflayer.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from reflayer.store.containers import Checkpoint


@takes(
    container_name(),
    option("checkpoint CHECKPOINT", "what to call it; by default the next number", nargs="?"),
    option("--freeze CGROUP", "the folder of a cgroup (version 2) that stands still meanwhile"),
    JSON,
)
def checkpoint(arguments: Namespace) -> int:
    """Keep what a container is now, and print NAME@CHECKPOINT.

      reflayer checkpoint box            keep it, called by the next number
      reflayer rollback box              back to that, whatever was done meanwhile
      reflayer fork box@1 --count 5      five containers that go on from there

    It costs what changed since the last one. Programs may go on writing meanwhile: each
    file is kept as it is at some moment, and what they change while the command runs is in
    the next one, too. So what belongs together in several files may not be: stop them where
    that matters, or have their cgroup frozen (a kill of this command leaves it so).
    """
    store = open_store(arguments)
    made = store.checkpoint(arguments.name, arguments.checkpoint, freeze=arguments.freeze)
    ignore_signals()
    return _print_one(arguments, made)


@takes(
    container_name(),
    option(
        "checkpoint CHECKPOINT",
        "to which; by default the last that was made or gone back to, or the container as it was "
        "at first",
        nargs="?",
        completed_by="checkpoints",
    ),
    JSON,
)
def rollback(arguments: Namespace) -> int:
    """Let a container be again what it was, and print NAME@CHECKPOINT.

    Stop what runs in it first. It costs what changed since the checkpoint that it stands on,
    and what is between the two. After a boot, on tmpfs and NFS and with snapshots it is a
    clone, and the container's path leads to another folder then: who had the old one open
    keeps that.

    If it is cut off, the next command that has to do with the container finishes it.
    """
    from reflayer.cli.progress_bars import bars

    store = open_store(arguments)
    if os.path.isdir(f"{store.root}/running"):
        from reflayer.sandbox.run import refuse_running

        refuse_running(store, store.container(arguments.name))
    with bars() as progress:
        to = store.rollback(arguments.name, arguments.checkpoint, progress=progress)
        ignore_signals()
    return _print_one(arguments, to)


@takes(
    option("name NAME[@CHECKPOINT]", "the container", completed_by="states"),
    option("--name NEW", "the new container's name; by default one is made up", dest="new"),
    option("--count N", "how many to make, by default 1", type=at_least_one, default=1),
    JSON,
)
def fork(arguments: Namespace) -> int:
    """Make containers of what one is, or was at a checkpoint, and print the paths of their
    roots.

    Without a checkpoint one is made first, unless nothing has changed since the last. Each
    is a container of its own, with checkpoints of its own, and stays when the first one goes.
    """
    from reflayer.cli.progress_bars import bars

    if arguments.new is not None and arguments.count > 1:
        raise UsageError("fork: one name is not enough for several: leave out --name or --count")
    name, _, checkpoint = arguments.name.partition("@")
    store, made = open_store(arguments), []
    with bars() as progress:
        for _ in range(arguments.count):
            made.append(store.fork(name, checkpoint or None, new=arguments.new, progress=progress))
            if not arguments.json:
                print_path(made[-1].path)
        ignore_signals()
    if arguments.json:
        from reflayer.cli.containers import container_fields

        print_json([container_fields(one) for one in made])
    return 0


@takes(container_name(), option("-q --quiet", "print names alone", action="store_true"), JSON)
def checkpoints(arguments: Namespace) -> int:
    """List the checkpoints of a container, each below the one that it goes on from.

    A star marks the one that it stands on, which was the last that was made or gone back to.
    """
    found = open_store(arguments).checkpoints(arguments.name)
    if arguments.json:
        print_json([_fields(one) for one in found])
        return 0
    if arguments.quiet:
        for one in found:
            print(one.name)
        return 0
    below: dict[str | None, list[Checkpoint]] = {}
    for one in found:
        below.setdefault(one.parent, []).append(one)
    rows, todo = [], [(one, 0) for one in reversed(below.get(None, []))]
    while todo:
        one, depth = todo.pop()
        mark = "*" if one.is_current else " "
        indent = "" if depth == 0 else "  " * (depth - 1) + "- "
        rows.append((f"{mark} {indent}{one.name}", ago(one.created), size_text(one.size)))
        # The line that is gone on with stays at its depth; only what branches off is indented.
        children = below.get(one.name, [])
        todo += [(child, depth) for child in reversed(children[:1])]
        todo += [(child, depth + 1) for child in reversed(children[1:])]
    print_table(("  CHECKPOINT", "CREATED", "SIZE"), rows)
    return 0


def _print_one(arguments: Namespace, one: Checkpoint | None) -> int:
    name = arguments.name.partition("@")[0]
    if arguments.json:
        print_json(None if one is None else _fields(one))
    else:
        print(name if one is None else f"{name}@{one.name}")
    return 0


def _fields(one: Checkpoint) -> dict[str, object]:
    return {
        "name": one.name,
        "parent": one.parent,
        "created": timestamp(one.created),
        "size": one.size,
        "current": one.is_current,
    }
