"""``reflayer rmi``."""

from __future__ import annotations

from reflayer.cli.names import complete_images, each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Remove images: a name, and with the last name the image. One that containers were made\n"
        "from stays until they are removed."
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="a name, an id, or the beginning of an id"
    ).completer = complete_images  # type: ignore[attr-defined]
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="take all names of an image given by its id, and the last one though there are "
        "containers of it: it goes with them",
    )
    parser.add_argument("--wait", action="store_true", help="wait until the files are deleted")


def run(arguments: Namespace) -> int:
    """Remove them."""
    from reflayer.store import Store

    store = Store(arguments.root)

    def remove(name: str) -> None:
        gone = store.remove_image(name, wait=arguments.wait, force=arguments.force)
        print(f"Untagged: {name}" if gone is None else f"Deleted: {gone.id}", flush=True)

    return each(arguments.images, remove)
