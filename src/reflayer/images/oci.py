"""``oci:DIR[:TAG]`` and ``oci-archive:FILE[:TAG]``: an image in an OCI image layout.

OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import os

from reflayer.errors import ImageError, failing, printable
from reflayer.images.content.blob_store import BLOBS, INDEX_FILE, LAYOUT_FILE, BlobStore, Layout
from reflayer.images.content.source import Destination, Source, file_stamp
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.content.source import Fetched, Unpack
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress


@record
class OciLayout(Source, Destination):
    """An image in a layout.

    Attributes:
        path: of the layout's folder, or of its tar, absolute; ``-`` for a tar on standard input.
        tag: the image's tag or whole name, or ``@N`` for its place; empty for the only one.
        is_archive: whether the layout is in a tar.
    """

    path: str
    tag: str = ""
    is_archive: bool = False

    @property
    def name(self) -> str:
        transport = "oci-archive" if self.is_archive else "oci"
        return f"{transport}:{self.path}" + (f":{self.tag}" if self.tag else "")

    def stamp(self) -> str:
        """The archive's, or that of the layout's index, which tells what is under each tag."""
        if self.path == "-":
            return ""
        try:
            return file_stamp(self.path if self.is_archive else f"{self.path}/{INDEX_FILE}")
        except OSError:  # fetching it tells what is wrong
            return ""

    def fetch(
        self,
        content: BlobStore,
        platform: Platform | None,
        progress: Progress | None,
        unpack: Unpack | None = None,
    ) -> Fetched:
        if self.is_archive:
            return Source.fetch(self, content, platform, progress, unpack)
        from reflayer.images.content.coming import copy_layers
        from reflayer.images.content.resolve import choose_image
        from reflayer.images.content.transfer import fetch_image, nearest

        layout = Layout(self.path)
        index = layout.index()
        if os.path.lexists(os.path.join(self.path, LAYOUT_FILE)):  # BuildKit's caches lack it
            layout.check_version()
        there = nearest(content, layout.open)
        image, _ = choose_image(index, self.tag, platform, there, printable(self.path))
        copy_layers(image, layout.open, content, progress, unpack)
        fetch_image(image, layout.open, content, None)  # the small rest, its manifest last
        return image, (self.name,)

    def _fetch(
        self, content: BlobStore, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        from reflayer.images import docker_archive as archive
        from reflayer.images.tar import archive_members

        with archive_members(self.path, content, progress) as members:
            if INDEX_FILE in members or archive.MANIFEST_JSON not in members:
                image, _ = archive.fetch_layout(members, self.tag, content, platform, progress)
            else:
                which = archive.parse_which(self.tag)
                image, _ = archive.fetch_saved(members, which, content, platform, progress)
        return image, (self.name,)

    def write(self, content: BlobStore, image: Image, progress: Progress | None) -> None:
        """Add ``image`` to the layout, made where it is absent; listed when all is on disk.

        Blobs share their blocks where the file system can, and each is checked once more.
        """
        from reflayer.images.build.manifest import with_oci_types
        from reflayer.images.content.transfer import fetch_image

        made = with_oci_types(content, image)
        _refuse_others(self.path)
        there = BlobStore(self.path)
        try:
            told = progress and (lambda _, done, total: progress("write", done, total))
            fetch_image(made, content.open, there, told)
            if self.tag:
                there.tag(self.tag, made.manifest)
            else:
                there.list_untagged(made.manifest)
        finally:
            there.tidy()


def _refuse_others(path: str) -> None:
    """A folder with other things in it is meant to become no layout."""
    with failing(path, "read"):
        names = set(os.listdir(path)) if os.path.lexists(path) else set()
    others = names - {BLOBS, "tmp", "index.lock"}  # of one whose making was cut off
    # In this order: another writer may be making one meanwhile, and begins with this file.
    if others and not os.path.lexists(os.path.join(path, LAYOUT_FILE)):
        raise ImageError(f"{printable(path)} is no OCI image layout, and not empty: take another")
