"""``reflayer push``."""

from __future__ import annotations

from reflayer.cli.arguments import add_json
from reflayer.cli.names import complete_images
from reflayer.cli.output import print_json
from reflayer.cli.ownership import add_ownership
from reflayer.cli.progress import bars
from reflayer.cli.registries import HELP, access_of, add_access

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Send an image to a registry, and print the digest of its manifest there.\n\n"
        "  reflayer push app registry.example.com/team/app:1.2\n"
        "  reflayer push app localhost:5000/app\n\n"
        "Layers that came compressed go out as the same bytes. What the registry has already is\n"
        "not sent, and what it has in a repository that the image came from is mounted there.\n\n"
        + HELP
    )
    image = parser.add_argument("image", metavar="IMAGE", help="a name or id (reflayer images)")
    image.completer = complete_images  # type: ignore[attr-defined]
    parser.add_argument(
        "destination", metavar="DEST", help="where to: [docker://]HOST/REPOSITORY[:TAG]"
    )
    add_access(parser)
    add_ownership(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Push it, and print its digest."""
    from reflayer.store import Store

    access = access_of(arguments)
    with bars() as report_to:
        there = Store(arguments.root, ownership=arguments.ownership).push(
            arguments.image, arguments.destination, access=access, progress=report_to
        )
    if arguments.json:
        print_json({"name": str(there), "digest": there.digest})
    else:
        print(there.digest)
    return 0
