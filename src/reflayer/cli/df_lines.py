"""The lines that ``reflayer df`` shows, whether for a terminal or plain."""

from __future__ import annotations

from reflayer.cli.progress import size_text
from reflayer.store.find import familiar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.store.blocks import Space
    from reflayer.store.usage import ContainerUsage, ImageUsage, Usage

CONTAINER_HEADS = ("CONTAINER", "FILES", "SIZE", "SHARED", "OWN", "GIVES BACK")
IMAGE_HEADS = ("IMAGE", "FILES", "SIZE", "SHARED", "OWN", "GIVES BACK", "LATER")


def total_line(usage: Usage) -> str:
    """All in one line."""
    total = usage.total
    taken = size_text(total.shared + total.own)
    line = f"{taken} on disk, where du would count {size_text(total.allocated)}"
    if usage.removed:
        removed = size_text(usage.removed)
        line += f"; {removed} more was removed: reflayer prune deletes it, or says why it cannot"
    return line


def image_name(one: ImageUsage) -> str:
    """What the image is called, by all its names."""
    return ", ".join(map(familiar, one.image.names)) or f"<none> {one.image.id[7:19]}"


def container_cells(one: ContainerUsage) -> tuple[str, ...]:
    """A container's line, below ``CONTAINER_HEADS``."""
    return (one.container.name, *_space_cells(one.space), size_text(one.gives_back))


def image_cells(one: ImageUsage) -> tuple[str, ...]:
    """An image's line, below ``IMAGE_HEADS``."""
    return (
        image_name(one),
        *_space_cells(one.space),
        size_text(one.gives_back),
        size_text(one.gives_back_later),
    )


def _space_cells(space: Space) -> tuple[str, ...]:
    sizes = (space.allocated, space.shared, space.own)
    return (str(space.inodes), *map(size_text, sizes))
