"""``reflayer ps``."""

from __future__ import annotations

from reflayer.cli.arguments import add_json
from reflayer.cli.output import container_fields, print_json, print_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from reflayer.store import Container


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = "List the containers, the newest first."
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids alone")
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Print them."""
    from reflayer.cli.times import ago
    from reflayer.store import Store

    containers = Store(arguments.root).containers()
    if arguments.json:
        print_json([container_fields(one) for one in containers])
    elif arguments.quiet:
        for one in containers:
            print(one.id[:12])
    else:
        print_table(
            ("CONTAINER ID", "NAME", "IMAGE", "CREATED", "PATH"),
            [
                (one.id[:12], one.name, _image(one), ago(one.created), one.path)
                for one in containers
            ],
        )
    return 0


def _image(container: Container) -> str:
    """What its image is called, or the beginning of its id."""
    from reflayer.store.find import familiar

    is_id = container.image == container.image_id
    return container.image_id[7:19] if is_id else familiar(container.image)
