"""An image into an OCI image layout, beside what is there."""

from __future__ import annotations

import os

from reflayer.errors import ImageError, failing, printable
from reflayer.images import layout
from reflayer.images.content import Content
from reflayer.images.fetch import fetch_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.image import Image
    from reflayer.progress import Progress


def write_layout(
    path: str, tag: str, content: Content, image: Image, progress: Progress | None
) -> None:
    """Add ``image``, whose blobs are in ``content``, to the layout ``path``, made if it is absent.

    It is listed when all of it is there and on disk. Blobs share their blocks where the file system
    can, and each is checked once more on its way.

    Args:
        path: the layout's folder.
        tag: what it is to be called there, instead of what was called so; or empty.
        content: where its blobs are.
        image: of OCI's media types.
        progress: is told of stage ``write``, in bytes.

    Raises:
        ImageError: something else is there, or a blob is damaged.
        OperationError: something could not be read or written.
    """
    _refuse_others(path)
    there = Content(path)
    try:
        told = progress and (lambda _, done, total: progress("write", done, total))
        fetch_image(image, content.open, there, told)
        if tag:
            there.tag(tag, image.manifest)
        else:
            there.list_untagged(image.manifest)
    finally:
        there.tidy()


def _refuse_others(path: str) -> None:
    """A folder with other things in it is meant to become no layout."""
    with failing(path, "read"):
        names = set(os.listdir(path)) if os.path.lexists(path) else set()
    others = names - {layout.BLOBS, "tmp", "index.lock"}  # of one whose making was cut off
    # In this order: another writer may be making one meanwhile, and begins with this file.
    if others and not os.path.lexists(os.path.join(path, layout.LAYOUT_FILE)):
        raise ImageError(f"{printable(path)} is no OCI image layout, and not empty: take another")
