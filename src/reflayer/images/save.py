"""Where an image can go: ``oci:DIR[:TAG]`` or ``docker-archive:FILE[:REF]``."""

from __future__ import annotations

from dataclasses import replace

from reflayer.errors import ImageError, printable
from reflayer.images.archives import DockerArchive
from reflayer.images.oci_layout import OciLayout
from reflayer.images.reference import Reference, refuse_digest
from reflayer.images.sources import open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.content import Content
    from reflayer.images.image import Image
    from reflayer.progress import Progress

    Destination = OciLayout | DockerArchive


def open_destination(text: str) -> Destination:
    """What ``text`` names; nothing is touched yet.

    Raises:
        ImageError: it is neither a layout nor an archive, or a name in it is none.
    """
    there = open_source(text)
    if isinstance(there, DockerArchive):
        if isinstance(there.which, int):
            raise ImageError(f"{printable(text)}: an image is saved by a name, not by its place")
        if there.which is not None and there.which.digest:
            raise ImageError(f"{printable(text)}: an archive names images without a digest")
        if there.which is not None:
            refuse_digest(there.which)
    if isinstance(there, OciLayout | DockerArchive):
        return there
    raise ImageError(
        f"{printable(text)}: an image is saved to oci:DIR[:TAG] or docker-archive:FILE[:REF]"
    )


def save_image(
    content: Content,
    image: Image,
    destination: Destination,
    *,
    name: Reference | None,
    progress: Progress | None,
) -> None:
    """Write ``image``, whose blobs are in ``content``, to ``destination``.

    Args:
        content: where its blobs are; a manifest of OCI's may be added to it for that.
        image: it.
        destination: what ``open_destination`` returned.
        name: what it is called in an archive, where the destination says nothing else.
        progress: is told of stage ``write``, in bytes.

    Raises:
        ImageError: a blob is missing or damaged, or something else is there.
        OperationError: something could not be read or written.
    """
    if isinstance(destination, OciLayout):
        from reflayer.images.remade import with_oci_types
        from reflayer.images.write_layout import write_layout

        made = with_oci_types(content, image)
        write_layout(destination.path, destination.tag, content, made, progress)
        return
    from reflayer.images.write_archive import write_archive

    if isinstance(destination.which, Reference):
        name = destination.which
    elif name is not None:
        name = replace(name, digest="") if name.tag else None
    write_archive(destination.path, name, content, image, progress)
