"""An image of the store goes out, to a layout or an archive."""

from __future__ import annotations

from reflayer.errors import ImageError
from reflayer.store.find import find_image
from reflayer.store.making import making
from reflayer.store.packed import packed_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images import Destination, Image, Reference
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage

DEFAULT_COMPRESSION = "gzip"
"""What every program reads."""


def save(
    parts: Parts,
    name: str,
    destination: str,
    compression: str | None,
    progress: Progress | None,
) -> None:
    """What ``Store.save`` does."""
    from reflayer.images.transports import open_destination

    with parts.database.reading() as db:
        _, found = find_image(db, name)  # nothing is made in order to save what is not there
    there = open_destination(destination, _reference(found))
    with making(parts):
        _save(parts, name, there, compression, progress)


def _save(
    parts: Parts,
    name: str,
    destination: Destination,
    compression: str | None,
    progress: Progress | None,
) -> None:
    with parts.database.reading() as db:
        known, _ = find_image(db, name)
    if not destination.is_plain:
        kind = compression or DEFAULT_COMPRESSION
        image = image_content(parts, known, compression=kind, progress=progress)
    elif compression is None:
        image = packed_image(parts, known, DEFAULT_COMPRESSION, progress)
    else:
        raise ImageError("layers are always plain in a docker-archive: give no compression")
    destination.write(parts.content, image, progress)


def image_content(
    parts: Parts,
    image: StoredImage,
    *,
    compression: str = DEFAULT_COMPRESSION,
    progress: Progress | None = None,
) -> Image:
    """The image with all of its blobs in the content store, as others take it.

    Layers that came compressed are the same bytes; those that are plain, and that of a folder that
    was taken in, are compressed now. The caller shares the store's lock as long as it needs them.

    Args:
        parts: the store's.
        image: it.
        compression: ``gzip`` or ``zstd``; ``none`` leaves plain layers plain.
        progress: is told of stage ``pack``, in bytes of each plain layer.

    Raises:
        ArchiveError: a name in the folder cannot be in a layer.
        ImageError, OperationError: something cannot be read or written.
        StoreError: the folder's layer is gone, or lacks what was left out.
    """
    from reflayer.images.build.manifest import with_compressed_layers

    packed = packed_image(parts, image, compression, progress)
    return with_compressed_layers(parts.content, packed, compression, progress)


def _reference(name: str | None) -> Reference | None:
    """The reference that one of the store's names is; None where it says whence an image came."""
    from reflayer.images import registry_reference

    if name is None:
        return None
    try:
        return registry_reference(name)
    except ImageError:
        return None
