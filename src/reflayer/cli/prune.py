"""``reflayer prune``."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Delete what was removed and is still on the disk, and what crashes left; say why where\n"
        "something cannot be deleted. Containers stay."
    )
    parser.add_argument(
        "-a", "--all", action="store_true", help="remove all images that have no container, too"
    )


def run(arguments: Namespace) -> int:
    """Delete it."""
    from reflayer.cli.progress import size_text
    from reflayer.store import Store

    store = Store(arguments.root)
    before = _free(store.root)
    for image in store.prune(unused=arguments.all):
        for name in image.names:
            print(f"Untagged: {name}")
        print(f"Deleted: {image.id}")
    print(f"Total reclaimed space: {size_text(max(0, _free(store.root) - before))}")
    return 0


def _free(root: str) -> int:
    """The bytes that are free where the store is."""
    try:
        status = os.statvfs(root)
    except FileNotFoundError:
        return 0
    return status.f_bfree * status.f_frsize
