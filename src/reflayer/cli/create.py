"""``reflayer create``."""

from __future__ import annotations

import sys

from reflayer.cli.arguments import add_json
from reflayer.cli.names import complete_images
from reflayer.cli.output import container_fields, print_json, print_path
from reflayer.cli.ownership import add_ownership, telling_of_ownership
from reflayer.cli.progress import bars
from reflayer.cli.registries import access_of, add_access

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Make a container, a writable clone of an image, and print the path of its root.\n\n"
        "IMAGE is one of\n"
        "  oci:DIR[:TAG]               an OCI image layout\n"
        "  oci-archive:FILE[:TAG]      a tar of one\n"
        "  docker-archive:FILE[:REF]   what docker save writes\n"
        "  tar:FILE                    a root file system's tar, of any usual compression\n"
        "  rootfs:DIR                  a folder that is a root file system\n"
        "  NAME or ID                  an image that is in the store (reflayer images)\n"
        "  [docker://]NAME             an image in its registry, where the store has it not\n\n"
        "What the store has already is neither read nor unpacked again. It is all there, or\n"
        "nothing is: a container that could not be made leaves nothing behind."
    )
    parser.add_argument("image", metavar="IMAGE", help="what to clone").completer = complete_images  # type: ignore[attr-defined]
    parser.add_argument("--name", help="the container's name; by default one is made up")
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="take the image for this platform; by default for this machine",
    )
    parser.add_argument(
        "--pull",
        choices=["missing", "always", "never"],
        default="missing",
        help="always: ask the registry, or take in a rootfs: folder anew, though the store has it; "
        "never: take only what the store has",
    )
    add_access(parser)
    add_ownership(parser)
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Create it, and print where it is."""
    from reflayer.store import Store

    store = Store(arguments.root, ownership=arguments.ownership)
    with telling_of_ownership(store.ownership), bars() as report_to:
        container = store.create(
            arguments.image,
            name=arguments.name,
            platform=arguments.platform,
            pull=arguments.pull,
            access=access_of(arguments),
            progress=report_to,
        )
    try:
        if arguments.json:
            print_json(container_fields(container))
        else:
            print_path(container.path)
        sys.stdout.flush()
    except OSError as error:  # nobody would know of it
        store.remove_container(container.id, wait=False)
        if not isinstance(error, BrokenPipeError):
            error.filename = "standard output"
            error.strerror = f"{error.strerror}: the container is removed again"
        raise
    return 0
