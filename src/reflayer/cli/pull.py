"""``reflayer pull``."""

from __future__ import annotations

from reflayer.cli.arguments import add_json
from reflayer.cli.names import complete_images
from reflayer.cli.output import print_json
from reflayer.cli.ownership import add_ownership, telling_of_ownership
from reflayer.cli.progress import bars
from reflayer.cli.registries import HELP, access_of, add_access

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Fetch an image as its registry has it now, unpack it, and print its id. So reflayer\n"
        "create needs only to clone it.\n\n"
        "  reflayer pull alpine\n"
        "  reflayer pull --platform linux/arm64 quay.io/fedora/fedora:41\n"
        "  reflayer pull localhost:5000/app@sha256:...\n\n"
        "Layers come side by side and are unpacked while they come. A broken connection is taken\n"
        "up where it broke off, and what a failed or killed pull has fetched is used by the next\n"
        "within a day. Nothing is recorded before all of it is there, its digests checked.\n\n"
        + HELP
    )
    image = parser.add_argument(
        "image", metavar="IMAGE", help="a name, with docker:// before it or not"
    )
    image.completer = complete_images  # type: ignore[attr-defined]
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="take the image for this platform; by default for this machine",
    )
    add_access(parser)
    add_ownership(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Pull it, and print its id."""
    from reflayer.store import Store

    store = Store(arguments.root, ownership=arguments.ownership)
    access = access_of(arguments)
    with telling_of_ownership(store.ownership), bars() as report_to:
        image = store.pull(
            arguments.image, platform=arguments.platform, access=access, progress=report_to
        )
    if arguments.json:
        from reflayer.cli.images import image_fields

        print_json(image_fields(image))
    else:
        print(image.id)
    return 0
