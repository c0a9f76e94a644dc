"""``reflayer path``."""

from __future__ import annotations

import os

from reflayer.cli.names import complete_containers
from reflayer.cli.output import print_path
from reflayer.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = "Print the path of a container's root file system."
    parser.add_argument(
        "name", metavar="NAME", help="its name, its id, or the beginning of its id"
    ).completer = complete_containers  # type: ignore[attr-defined]


def run(arguments: Namespace) -> int:
    """Print it."""
    from reflayer.store import Store

    container = Store(arguments.root).container(arguments.name)
    if not os.path.isdir(container.path):
        raise StoreError(f"{container.name}: its folder is gone: reflayer rm {container.name}")
    print_path(container.path)
    return 0
