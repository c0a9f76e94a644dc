"""``reflayer df``."""

from __future__ import annotations

import sys

from reflayer.cli.arguments import add_json
from reflayer.cli.df_lines import (
    CONTAINER_HEADS,
    IMAGE_HEADS,
    container_cells,
    image_cells,
    image_name,
    total_line,
)
from reflayer.cli.names import complete_either
from reflayer.cli.output import complain, container_fields, print_json, print_table
from reflayer.cli.progress import bars, size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from reflayer.store.blocks import Space
    from reflayer.store.usage import Usage


def add_arguments(parser: ArgumentParser) -> None:
    """Tell ``parser`` what the command takes."""
    parser.description = (
        "Show how much disk containers and images really take. Clones share their blocks with\n"
        "the image and with each other, which du counts for each of them again.\n\n"
        "  FILES        files, folders and all others\n"
        "  SIZE         what it would take if nothing were shared, as du shows it\n"
        "  SHARED       what it takes together with others: other containers and images, "
        "or anything else on the file system\n"
        "  OWN          what nobody else has\n"
        "  GIVES BACK   what rm or rmi would free: what is its own; nothing for an image "
        "while it has containers, but LATER, when they are gone\n\n"
        "All files are looked at, about 100,000 in one or two seconds, and what is not written\n"
        "yet is written first. The numbers are those of the file system's own map (FIEMAP):\n"
        "compressed data counts as it takes (to others than root: as it reads), and what btrfs\n"
        "keeps in its metadata, small files among it, is not told and not counted. Where a file\n"
        "system tells nothing (NFS), all is taken for its own, and a line says so."
    )
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="a container or image, by name, id, or the beginning of an id; by default all",
    ).completer = complete_either  # type: ignore[attr-defined]
    add_json(parser)


def run(arguments: Namespace) -> int:
    """Show it."""
    from reflayer.store import Store

    with bars() as report_to:
        usage = Store(arguments.root).usage(*arguments.names, progress=report_to)
    if arguments.json:
        print_json(_fields(usage))
        return 0
    if sys.stdout.isatty():
        from reflayer.cli.df_bars import print_bars

        print_bars(usage)
    else:
        _print_plain(usage)
    _print_doubts(usage)
    return 0


def _print_plain(usage: Usage) -> None:
    if usage.containers:
        print_table(CONTAINER_HEADS, [container_cells(one) for one in usage.containers])
        print()
    if usage.images:
        print_table(IMAGE_HEADS, [image_cells(one) for one in usage.images])
        print()
    print(total_line(usage))


def _print_doubts(usage: Usage) -> None:
    """Say where numbers may be too large, or too small."""
    spaces: list[tuple[str, Space]] = [
        *((one.container.name, one.space) for one in usage.containers),
        *((image_name(one), one.space) for one in usage.images),
    ]
    for name, space in spaces:
        if space.unread:
            doubt = f"{space.unread} files or folders may not be read by this user"
            complain(f"{name}: {doubt}")
        if space.untold:
            doubt = f"whether {size_text(space.untold)} are shared is not told: taken for its own"
            complain(f"{name}: {doubt}")


def _fields(usage: Usage) -> dict[str, object]:
    return {
        "containers": [
            {
                **container_fields(one.container),
                **_space_fields(one.space),
                "gives_back": one.gives_back,
            }
            for one in usage.containers
        ],
        "images": [
            {
                "id": one.image.id,
                "names": list(one.image.names),
                "containers": list(one.users),
                **_space_fields(one.space),
                "gives_back": one.gives_back,
                "gives_back_later": one.gives_back_later,
            }
            for one in usage.images
        ],
        "total": _space_fields(usage.total),
        "removed": usage.removed,
    }


def _space_fields(space: Space) -> dict[str, int]:
    names = ("inodes", "size", "allocated", "shared", "own", "untold", "unread")
    return {name: getattr(space, name) for name in names}
