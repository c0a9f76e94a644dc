"""The commands for containers: ``ps``, ``path``, ``rm``, ``diff``, ``export``."""

from __future__ import annotations

import os
import sys

from reflayer.cli.arguments import (
    ANY_NAME,
    JSON,
    QUIET,
    WAIT,
    any_path,
    container_name,
    each,
    open_store,
    option,
    takes,
)
from reflayer.cli.interrupt import ignore_signals
from reflayer.cli.output import ago, print_json, print_path, print_table, remark, timestamp
from reflayer.contexts import contextmanager
from reflayer.errors import StoreError, UsageError, counted, failing, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator
    from typing import BinaryIO

    from reflayer.archive import Change
    from reflayer.store import Container


@takes(QUIET, JSON)
def ps(arguments: Namespace) -> int:
    """List the containers, the newest first. PATH, which reflayer path prints, is left out on a
    terminal that is too narrow for it.
    """
    containers = open_store(arguments).containers()
    if arguments.json:
        print_json([container_fields(one) for one in containers])
    elif arguments.quiet:
        for one in containers:
            print(one.id[:12])
    else:
        of_each = {one.image: one for one in containers}
        images = {image: _image_of(one) for image, one in of_each.items()}
        print_table(
            ("CONTAINER ID", "NAME", "IMAGE", "CREATED", "PATH"),
            [
                (one.id[:12], one.name, images[one.image], ago(one.created), one.path)
                for one in containers
            ],
            has_spare=True,
        )
    return 0


def container_fields(container: Container) -> dict[str, object]:
    """A container for JSON."""
    return {
        "id": container.id,
        "name": container.name,
        "image": container.image,
        "image_id": container.image_id,
        "created": timestamp(container.created),
        "path": container.path,
        **({"map": str(container.id_map)} if container.id_map else {}),
    }


def _image_of(container: Container) -> str:
    """What its image is called, or the beginning of its id."""
    from reflayer.images.model.reference import familiar

    is_id = container.image == container.image_id
    return container.image_id[7:19] if is_id else familiar(container.image)


@takes(container_name())
def path(arguments: Namespace) -> int:
    """Print the path of a container's root file system."""
    container = open_store(arguments).container(arguments.name)
    if not os.path.isdir(container.path):
        raise StoreError(f"{container.name}: its folder is gone: reflayer rm {container.name}")
    print_path(container.path)
    return 0


@takes(
    option("names NAME[@CHECKPOINT]", ANY_NAME, nargs="+", completed_by="states"),
    option(
        "--recycle",
        "undo what changed in it, so that the next container of its image is had at once",
        action="store_true",
    ),
    WAIT,
)
def rm(arguments: Namespace) -> int:
    """Remove containers, and print the names of those that are gone.

    They are gone at once; their files are deleted behind, by another process, and so
    their space comes back a little later. Where one cannot be removed, the others are.
    One in which reflayer run runs something stays.

    NAME@CHECKPOINT removes that checkpoint alone: what goes on from it, and forks of it, stay.

    With --recycle what changed in it is undone, and no more than that, and it is kept ready,
    as those that reflayer warm makes: less work than to delete it and to make the next one.
    That is only done where it is proved to be the same as a new one, and no process has
    anything of it open any more; else it is deleted, and standard error tells why. It takes
    root, a file system on which times tell what changed (XFS, ext4, btrfs), and no reboot
    or setting of the clock since it was made. Not for one in which something ran that may
    want to harm the next: on XFS and ext4 files can be exchanged so that no time tells.
    """
    store = open_store(arguments)

    def remove(name: str) -> None:
        container, _, checkpoint = name.partition("@")
        if checkpoint:
            store.remove_checkpoint(container, checkpoint, wait=arguments.wait)
            print(name, flush=True)
            return
        if os.path.isdir(f"{store.root}/running"):
            from reflayer.sandbox.run import refuse_running

            refuse_running(store, store.container(name))
        store.remove_container(
            name, wait=arguments.wait or arguments.recycle, recycle=arguments.recycle, warn=remark
        )
        print(name, flush=True)

    return each(arguments.names, remove)


@takes(
    option("name NAME[@CHECKPOINT]", "the container", completed_by="states"),
    option(
        "since NAME[@CHECKPOINT]",
        "what it is told from; by default its image",
        nargs="?",
        completed_by="states",
    ),
    JSON,
)
def diff(arguments: Namespace) -> int:
    """List what changed in a container since it was made, as Docker does:

      A /path    added
      C /path    changed
      D /path    deleted, with all that was in it

    A folder is changed where anything in it is.

      reflayer diff box box@1      what changed in it since that checkpoint
      reflayer diff box@2 box@1    between two
    """
    changes = open_store(arguments).changes(arguments.name, arguments.since)
    if arguments.json:
        _print_as_json(changes)
        return 0
    sys.stdout.flush()
    for change in changes:
        # A name must not give orders to a terminal; a script gets the bytes that it is.
        name = printable(change.path) if sys.stdout.isatty() else change.path
        sys.stdout.buffer.write(os.fsencode(f"{change.kind} {name}\n"))
    return 0


def _print_as_json(changes: Iterator[Change]) -> None:
    import json

    between = "["  # one array, each change printed as it is met
    for change in changes:
        print(between, json.dumps({"kind": change.kind, "path": change.path}), sep="", end="")
        between = ", "
    print("[]" if between == "[" else "]")


@takes(
    container_name(),
    option(
        "-o --output FILE",
        "write to FILE, which is replaced when all is written; by default to standard output",
        type=any_path,
    ),
)
def export(arguments: Namespace) -> int:
    """Write the root file system of a container as a tar, to FILE or to standard output.

    Owners, modes, extended attributes, times in nanoseconds, hard links, holes and devices
    are in it; sockets and what is mounted are not. GNU tar takes all of it out with
      tar --xattrs --xattrs-include='*' -xpf FILE
    """
    from reflayer.cli.progress_bars import bars

    with _output(arguments.output) as out, bars() as progress:
        packing = open_store(arguments).export(arguments.name, out, progress=progress)
    ignore_signals()
    if packing.skipped:
        remark(f"left out: {counted(packing.skipped)}")
    return 0


@contextmanager
def _output(path: str | None) -> Iterator[BinaryIO]:
    """Standard output, or the file ``path``; if the block fails, that is as it was before.

    What is there and no regular file, a pipe or device, is written to as it is.
    """
    if path is None:
        if sys.stdout.isatty():
            raise UsageError("export: a tar is nothing for a terminal: give -o FILE")
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    from reflayer.images.content.temp_file import replacement

    is_special = os.path.exists(path) and not os.path.isfile(path)
    with failing(path, "write"), open(path, "wb") if is_special else replacement(path) as file:
        yield file
