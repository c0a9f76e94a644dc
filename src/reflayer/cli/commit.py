"""``reflayer commit``."""

from __future__ import annotations

import os

from reflayer.cli.arguments import add_json
from reflayer.cli.image_config import add_image_config, image_config
from reflayer.cli.names import complete_containers, complete_images
from reflayer.cli.output import complain, print_json
from reflayer.cli.ownership import add_ownership, telling_of_ownership
from reflayer.cli.progress import bars
from reflayer.errors import ReflayerError, counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_EPOCH = "SOURCE_DATE_EPOCH"


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Make an image of a container: the layers of its own image, and on top what changed in\n"
        "it (reflayer diff). Print the image's id.\n\n"
        "Sockets and what is mounted in the container are not in the image. Stop what writes to\n"
        "the container first: a file that changes while it is read is an error.\n\n"
        "The same tree and the same options give the same image, where SOURCE_DATE_EPOCH in the\n"
        "environment says when it was made (seconds since 1970)."
    )
    parser.add_argument(
        "name", metavar="NAME", help="the container's name, its id, or the beginning of its id"
    ).completer = complete_containers  # type: ignore[attr-defined]
    parser.add_argument(
        "image", metavar="IMAGE", help="what to call the image: [HOST/]NAME[:TAG]"
    ).completer = complete_images  # type: ignore[attr-defined]
    parser.add_argument("-a", "--author", default="", help="who made it")
    parser.add_argument("-m", "--message", default="", help="what for; it is kept in its history")
    add_image_config(parser)
    parser.add_argument(
        "--compression",
        choices=["gzip", "zstd", "none"],
        default="gzip",
        help="of the new layer; zstd is smaller, but Docker before 23 does not read it",
    )
    add_ownership(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Make it, and print its id."""
    from reflayer.store import Store

    store = Store(arguments.root, ownership=arguments.ownership)
    with telling_of_ownership(store.ownership), bars() as report_to:
        committed = store.commit(
            arguments.name,
            arguments.image,
            changes=image_config(arguments),
            author=arguments.author,
            message=arguments.message,
            created=_created(),
            compression=arguments.compression,
            progress=report_to,
        )
    image = committed.image
    if arguments.json:
        print_json({"id": image.id, "names": list(image.names), "skipped": committed.skipped})
    else:
        print(image.id)
    if committed.skipped:
        complain(f"left out: {counted(committed.skipped)}")
    return 0


def _created() -> float | None:
    """When the image is to have been made (reproducible-builds.org, SOURCE_DATE_EPOCH)."""
    text = os.environ.get(_EPOCH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ReflayerError(f"{_EPOCH} is {text!r}, not a number of seconds since 1970")
    return int(text)
