"""``reflayer save``."""

from __future__ import annotations

from reflayer.cli.names import complete_images
from reflayer.cli.ownership import add_ownership
from reflayer.cli.progress import bars

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Write an image to where other programs can read it.\n\n"
        "DEST is one of\n"
        "  oci:DIR[:TAG]               an OCI image layout, made or added to; what was called TAG "
        "there is no longer\n"
        "  docker-archive:FILE[:REF]   what docker load reads; FILE is replaced. Without REF "
        "the image is called there what IMAGE is\n\n"
        "In a layout, layers that came compressed go out as the same bytes; in an archive all are\n"
        "plain, as docker save writes them. It is there when all of it is written."
    )
    parser.add_argument(
        "image", metavar="IMAGE", help="a name of the image, its id, or the beginning of its id"
    ).completer = complete_images  # type: ignore[attr-defined]
    parser.add_argument("destination", metavar="DEST", help="where to write it")
    parser.add_argument(
        "--compression",
        choices=["gzip", "zstd", "none"],
        help="in a layout, of layers that are plain so far; by default gzip",
    )
    add_ownership(parser)


def run(arguments: Namespace) -> int:
    """Write it."""
    from reflayer.store import Store

    with bars() as report_to:
        Store(arguments.root, ownership=arguments.ownership).save(
            arguments.image,
            arguments.destination,
            compression=arguments.compression,
            progress=report_to,
        )
    return 0
