"""``reflayer images``."""

from __future__ import annotations

from reflayer.cli.arguments import add_json
from reflayer.cli.output import print_json, print_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from reflayer.store.records import StoredImage


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "List the images. <none> is one whose name has moved to another image; it goes with\n"
        "the last of its containers."
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids alone")
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Print them."""
    from reflayer.store import Store

    images = Store(arguments.root).images()
    if arguments.json:
        print_json([image_fields(one) for one in images])
    elif arguments.quiet:
        for one in images:
            print(_digits(one)[:12])
    else:
        print_table(
            ("NAME", "IMAGE ID", "PLATFORM", "CREATED", "SIZE"),
            [row for one in images for row in _rows(one)],
        )
    return 0


def _digits(image: StoredImage) -> str:
    return image.id.partition(":")[2]


def image_fields(image: StoredImage) -> dict[str, object]:
    """An image for JSON."""
    return {
        "id": image.id,
        "names": list(image.names),
        "platform": image.platform,
        "created": image.created,
        "size": image.size,
    }


def _rows(image: StoredImage) -> list[tuple[str, ...]]:
    from reflayer.cli.progress import size_text
    from reflayer.cli.times import ago, seconds_of
    from reflayer.errors import brief
    from reflayer.store.find import familiar

    created = seconds_of(image.created)
    rest = (
        _digits(image)[:12],
        brief(image.platform),
        "N/A" if created is None else ago(created),
        "N/A" if image.size is None else size_text(image.size),
    )
    return [(name, *rest) for name in map(familiar, image.names or ("<none>",))]
