"""``reflayer df``."""

from __future__ import annotations

import sys

from reflayer.cli.arguments import (
    JSON,
    complete_either,
    open_store,
    option,
    takes,
)
from reflayer.cli.bars import bars
from reflayer.cli.containers import container_fields
from reflayer.cli.output import complain, print_json, print_table, size_text
from reflayer.record import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from reflayer.store.usage import ImageUsage, Space, Usage

    Table = tuple[Sequence[str], Sequence[tuple[tuple[str, ...], Space]]]  # heads, lines

_CONTAINER_HEADS = ("CONTAINER", "FILES", "SIZE", "SHARED", "OWN", "GIVES BACK")
_IMAGE_HEADS = ("IMAGE", "FILES", "SIZE", "SHARED", "OWN", "GIVES BACK", "LATER")


@takes(
    option(
        "names NAME",
        "a container or image, by name, id, or the beginning of an id; by default all",
        nargs="*",
        completer=complete_either,
    ),
    JSON,
)
def df(arguments: Namespace) -> int:
    """Show how much disk containers and images really take. Clones share their blocks with
    the image and with each other, which du counts for each of them again.

      FILES        files, folders and all others
      SIZE         what it would take if nothing were shared, as du shows it
      SHARED       what it takes together with others: other containers and images, or
          anything else on the file system
      OWN          what nobody else has
      GIVES BACK   what rm or rmi would free: what is its own; nothing for an image
          while it has containers, but LATER, when they are gone

    All files are looked at, about 100,000 in one or two seconds, and what is not written
    yet is written first. The numbers are those of the file system's own map (FIEMAP):
    compressed data counts as it takes (to others than root: as it reads), and what btrfs
    keeps in its metadata, small files among it, is not told and not counted. Where a file
    system tells nothing (NFS), all is taken for its own, and a line says so.
    """
    with bars() as progress:
        usage = open_store(arguments).usage(*arguments.names, progress=progress)
    if arguments.json:
        print_json(_fields(usage))
        return 0
    tables = _tables(usage)
    if sys.stdout.isatty():
        from reflayer.cli.df_chart import print_chart

        print_chart(tables, _total_line(usage))
    else:
        for heads, lines in tables:
            print_table(heads, [cells for cells, _ in lines])
            print()
        print(_total_line(usage))
    for _, lines in tables:
        for (name, *_), space in lines:
            _print_doubts(name, space)
    return 0


def _tables(usage: Usage) -> list[Table]:
    """The tables that have lines."""
    containers = [
        ((one.container.name, *_space_cells(one.space), size_text(one.gives_back)), one.space)
        for one in usage.containers
    ]
    images = [
        (
            (
                _image_name(one),
                *_space_cells(one.space),
                size_text(one.gives_back),
                size_text(one.gives_back_later),
            ),
            one.space,
        )
        for one in usage.images
    ]
    tables: list[Table] = [(_CONTAINER_HEADS, containers), (_IMAGE_HEADS, images)]
    return [(heads, lines) for heads, lines in tables if lines]


def _image_name(one: ImageUsage) -> str:
    from reflayer.store.images import familiar

    return ", ".join(map(familiar, one.image.names)) or f"<none> {one.image.id[7:19]}"


def _space_cells(space: Space) -> tuple[str, ...]:
    sizes = (space.allocated, space.shared, space.own)
    return (str(space.inodes), *map(size_text, sizes))


def _total_line(usage: Usage) -> str:
    total = usage.total
    taken = size_text(total.shared + total.own)
    line = f"{taken} on disk, where du would count {size_text(total.allocated)}"
    if usage.removed:
        removed = size_text(usage.removed)
        line += f"; {removed} more was removed: reflayer prune deletes it, or says why it cannot"
    return line


def _print_doubts(name: str, space: Space) -> None:
    """Say where numbers may be too large, or too small."""
    if space.unread:
        complain(f"{name}: {space.unread} files or folders may not be read by this user")
    if space.untold:
        untold = size_text(space.untold)
        complain(f"{name}: whether {untold} are shared is not told: taken for its own")


def _fields(usage: Usage) -> dict[str, object]:
    return {
        "containers": [
            {
                **container_fields(one.container),
                **as_dict(one.space),
                "gives_back": one.gives_back,
            }
            for one in usage.containers
        ],
        "images": [
            {
                "id": one.image.id,
                "names": list(one.image.names),
                "containers": list(one.users),
                **as_dict(one.space),
                "gives_back": one.gives_back,
                "gives_back_later": one.gives_back_later,
            }
            for one in usage.images
        ],
        "total": as_dict(usage.total),
        "removed": usage.removed,
    }
