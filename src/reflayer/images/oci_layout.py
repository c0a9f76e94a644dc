"""``oci:DIR[:TAG]``: an image in an OCI image layout."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import partial

from reflayer.errors import ImageError, brief, listed, printable
from reflayer.images import layout
from reflayer.images.descriptor import CONTAINERD_NAME, REF_NAME
from reflayer.images.fetch import fetch_image, nearest
from reflayer.images.reference import parse_reference
from reflayer.images.resolve import find_image, find_images, is_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor
    from reflayer.images.document import Document
    from reflayer.images.image import Image
    from reflayer.images.platform import Platform
    from reflayer.images.resolve import Open
    from reflayer.images.sources import Fetched
    from reflayer.progress import Progress


@dataclass(frozen=True, slots=True)
class OciLayout:
    """An image in the layout ``path``; without a ``tag`` the only one, ``@N`` is its place."""

    path: str
    tag: str = ""

    @property
    def name(self) -> str:
        """What a store calls the image."""
        return f"oci:{self.path}:{self.tag}" if self.tag else f"oci:{self.path}"

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        """As ``Source`` has it."""
        index = layout.read_index(self.path)
        if os.path.lexists(
            os.path.join(self.path, layout.LAYOUT_FILE)
        ):  # BuildKit's caches lack it
            layout.check_layout(self.path)
        open_blob = partial(layout.open_blob, self.path)
        near = nearest(content, open_blob)
        image, _ = choose_image(index, self.tag, platform, near, printable(self.path))
        fetch_image(image, open_blob, content, progress)
        return image, (self.name,)


def choose_image(
    index: Document, which: str, platform: Platform | None, open_blob: Open, where: str
) -> tuple[Image, Descriptor]:
    """The image of a layout that ``which`` names, and what is listed there for it.

    Args:
        index: the layout's.
        which: a tag, a whole name, or ``@N`` for the place in the index; empty for the only image.
        platform: what it has to run on; None for this machine, or for whatever the only one is.
        open_blob: opens a blob by its digest.
        where: the layout in words.

    Raises:
        ImageError: there is none, more than one, or it is not what it should be.
        OperationError: a blob could not be read.
    """
    entries = [entry.descriptor() for entry in index.children("manifests")]
    if re.fullmatch(r"@[0-9]{1,6}", which):
        found = entries[int(which[1:]) :][:1]
    else:
        found = [one for one in entries if not which or _is_called(one, which)]
    found = list({one.digest: one for one in found}.values())
    if not which and len(set(map(names_of, found))) > 1:
        found = [one for one in found if is_image(one, open_blob)]
        if len(set(map(names_of, found))) > 1:
            raise ImageError(f"{where} has several images, say which: {_there(entries)}")
    if not found:
        what = f"no image {brief(which)}" if which else "no image"
        raise ImageError(f"{where} has {what}; there are: {_there(entries)}")
    if len(found) == 1:
        return find_image(found[0], platform, open_blob, where), found[0]
    images = find_images(found, platform, open_blob, where)
    if len(images) > 1:
        raise ImageError(
            f"{where} has several images {brief(which)}".rstrip()
            + f" for {images[0].platform}, say which by its place, @0 to @{len(entries) - 1}"
        )
    return images[0], found[0]


def names_of(one: Descriptor) -> tuple[str, ...]:
    """What a layout calls what it lists: whole names, if there are such, before tags."""
    said = (one.annotations.get(key, "") for key in (CONTAINERD_NAME, REF_NAME))
    return tuple(dict.fromkeys(filter(None, said)))


def _is_called(one: Descriptor, which: str) -> bool:
    names = names_of(one)
    if which in names:
        return True
    try:
        return str(parse_reference(which)) in names
    except ImageError:
        return False


def _there(entries: list[Descriptor]) -> str:
    return listed(sorted(name for one in entries for name in names_of(one)[-1:])) or "no tags"
