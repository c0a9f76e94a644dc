"""``oci:DIR[:TAG]``: an image in an OCI image layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from reflayer.errors import ImageError, printable
from reflayer.images import layout
from reflayer.images.fetch import fetch_image

if TYPE_CHECKING:
    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor
    from reflayer.images.fetch import Progress
    from reflayer.images.image import Image
    from reflayer.images.platform import Platform


@dataclass(frozen=True, slots=True)
class OciLayout:
    """An image in the layout ``path``; without a ``tag`` the only one."""

    path: str
    tag: str = ""

    @property
    def name(self) -> str:
        """What a store calls the image."""
        return f"oci:{self.path}:{self.tag}" if self.tag else f"oci:{self.path}"

    @property
    def names(self) -> tuple[str, ...]:
        """As ``Source`` has it."""
        return (self.name,)

    def fetch(
        self, content: Content, platform: Platform | None, progress: Progress | None
    ) -> Image:
        """As ``Source`` has it."""
        layout.check_layout(self.path)
        open_blob = partial(layout.open_blob, self.path)
        name = printable(self.name)
        return fetch_image(self._manifest(), platform, open_blob, content, progress, name)

    def _manifest(self) -> Descriptor:
        named = list(layout.named(layout.read_index(self.path)))
        found = {one.digest: one for name, one in named if self.tag in ("", name)}
        if len(found) == 1:
            return next(iter(found.values()))
        tags = ", ".join(sorted({printable(name) for name, _ in named if name})) or "no tags"
        if not found:
            what = f"no image {printable(self.tag)}" if self.tag else "no image"
            raise ImageError(f"{printable(self.path)} has {what}; there are: {tags}")
        if self.tag:
            raise ImageError(f"{printable(self.path)} has several images {printable(self.tag)}")
        raise ImageError(f"{printable(self.path)} has several images, say which: {tags}")
