"""``reflayer df``: tables, and on a terminal a chart, with a bar for each line."""

from __future__ import annotations

import sys

from reflayer.cli.arguments import JSON, open_store, option, takes
from reflayer.cli.containers import container_fields
from reflayer.cli.output import print_json, print_table, remark, size_text
from reflayer.cli.progress_bars import bars
from reflayer.errors import listed, printable
from reflayer.record import as_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from reflayer.store.usage import CommonUsage, ImageUsage, Space, SpareUsage, Usage

    Line = tuple[tuple[str, ...], Space]  # its cells, and what its bar shows
    Listing = tuple[Sequence[str], Sequence[Line]]  # its heads and lines

_CONTAINER_HEADS = ("CONTAINER", "FILES", "SIZE", "SHARED", "OWN", "GIVES BACK")
_SPARE_HEADS = ("READY OF", "COUNT", "FILES", "SIZE", "SHARED", "OWN", "GIVES BACK")
_IMAGE_HEADS = ("IMAGE", "FILES", "SIZE", "SHARED", "OWN", "GIVES BACK", "LATER")

_COMMON_HEADS = ("SHARED BY", "SIZE")

_WIDTH = 24  # characters of the longest bar, and half of that where the terminal is narrow
_NARROW = 100  # columns
_PADDING = 2
_NARROWEST = 8  # characters of a name that is cut
_OWN, _SHARED = ("█", "bold cyan"), ("░", "cyan")


@takes(
    option(
        "names NAME",
        "a container or image, by name, id, or the beginning of an id; by default all",
        nargs="*",
        completed_by="either",
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

    SHARED BY lists what images have in common with each other and with no other image.
    READY OF lists containers that are kept ready (reflayer warm). One of each is looked at,
    and all of them give back what they have of their own.

    All files are looked at, about 200,000 in a second, and what is not written yet is
    written first. The numbers are those of the file system's own map (FIEMAP):
    compressed data counts as it takes (to others than root: as it reads), and what btrfs
    keeps in its metadata, small files among it, is not told and not counted. Where a file
    system tells nothing (NFS), all is taken for its own, and a line says so.
    """
    with bars() as progress:
        usage = open_store(arguments).usage(*arguments.names, progress=progress)
    if arguments.json:
        print_json(_fields(usage))
        return 0
    listings = _listings(usage)
    if sys.stdout.isatty():
        _print_chart(listings, _total_line(usage))
    else:
        for heads, lines in listings:
            print_table(heads, [cells for cells, _ in lines])
            print()
        print(_total_line(usage))
    for _, lines in listings:
        for (name, *_), space in lines:
            _print_doubts(name, space)
    return 0


def _listings(usage: Usage) -> list[Listing]:
    containers = [_line(one.container.name, one.space, one.gives_back) for one in usage.containers]
    images = [
        _line(_image_name(one), one.space, one.gives_back, one.gives_back_later)
        for one in usage.images
    ]
    common = [_common_line(one) for one in usage.common]
    spares = [_spare_line(one) for one in usage.spares]
    listings: list[Listing] = [
        (_CONTAINER_HEADS, containers),
        (_IMAGE_HEADS, images),
        (_COMMON_HEADS, common),
        (_SPARE_HEADS, spares),
    ]
    return [(heads, lines) for heads, lines in listings if lines]


def _line(name: str, space: Space, *gives_back: int) -> Line:
    sizes = (space.allocated, space.shared, space.own, *gives_back)
    return (name, f"{space.inodes:,}", *map(size_text, sizes)), space


def _common_line(one: CommonUsage) -> Line:
    from reflayer.images.model.reference import familiar
    from reflayer.store.usage import Space

    space = Space(0, 0, 0, shared=one.size, own=0, untold=0, unread=0)
    return (listed(map(familiar, one.images)), size_text(one.size)), space


def _spare_line(one: SpareUsage) -> Line:
    from reflayer.images.model.reference import familiar

    (name, *cells), space = _line(familiar(one.image), one.space, one.space.own)
    return (name, str(one.ready), *cells), space


def _image_name(one: ImageUsage) -> str:
    from reflayer.images.model.reference import familiar

    return ", ".join(map(familiar, one.image.names)) or f"<none> {one.image.id[7:19]}"


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
        remark(f"{name}: {space.unread} files or folders may not be read by this user")
    if space.untold:
        untold = size_text(space.untold)
        remark(f"{name}: whether {untold} are shared is not told: taken for its own")


def _fields(usage: Usage) -> dict[str, object]:
    return {
        "containers": [
            {**container_fields(one.container), **as_dict(one.space), "gives_back": one.gives_back}
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
        "spares": [
            {"image": one.image, "ready": one.ready, **as_dict(one.space)} for one in usage.spares
        ],
        "common": [as_dict(one) for one in usage.common],
        "total": as_dict(usage.total),
        "removed": usage.removed,
    }


def _print_chart(listings: Sequence[Listing], total: str) -> None:
    """Print the tables, each line with a bar of what is its own, and then of what is shared."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    spaces = [space for _, lines in listings for _, space in lines]
    longest = max((space.shared + space.own for space in spaces), default=0) or 1
    width = _WIDTH if console.width >= _NARROW else _WIDTH // 2
    for heads, lines in listings:
        table = Table(box=None, padding=(0, _PADDING, 0, 0), pad_edge=False, header_style="bold")
        rows = [heads, *(cells for cells, _ in lines)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        # Numbers are whole; where the terminal is too narrow names are not, and then no bar is.
        left = console.width - sum(widths[1:]) - _PADDING * (len(widths) - 1)
        has_bar = left - _PADDING - width - 1 >= _NARROWEST
        left -= has_bar * (_PADDING + width + 1)
        table.add_column(heads[0], no_wrap=True, width=min(widths[0], max(_NARROWEST, left)))
        for head, least in zip(heads[1:], widths[1:], strict=True):
            table.add_column(head, justify="right", no_wrap=True, width=least)
        if has_bar:
            table.add_column("", no_wrap=True, width=width + 1)  # the least takes one, too
        for cells, space in lines:
            bar = Text(_OWN[0] * _characters(space.own, longest, width), _OWN[1])
            bar.append(_SHARED[0] * _characters(space.shared, longest, width), _SHARED[1])
            table.add_row(*(Text(printable(cell)) for cell in cells), *[bar][:has_bar])
        table.add_row()
        console.print(table)
    console.print(Text.assemble(_OWN, " own  ", _SHARED, " shared   ", total))


def _characters(size: int, longest: int, width: int) -> int:
    """How long a bar is; what is there at all is seen."""
    return max(1, round(width * size / longest)) if size else 0
