"""``reflayer tag``."""

from __future__ import annotations

from reflayer.cli.names import complete_images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Give an image another name. What was called so before is called so no longer, and goes\n"
        "if it has neither another name nor a container."
    )
    parser.add_argument(
        "image", metavar="IMAGE", help="a name, an id, or the beginning of an id"
    ).completer = complete_images  # type: ignore[attr-defined]
    parser.add_argument("name", metavar="NAME", help="the new name: [HOST/]NAME[:TAG]")


def run(arguments: Namespace) -> int:
    """Name it."""
    from reflayer.store import Store

    Store(arguments.root).tag(arguments.image, arguments.name)
    return 0
