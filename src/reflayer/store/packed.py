"""Any image of the store as one of blobs: a folder that was taken in is packed for that."""

from __future__ import annotations

from reflayer.errors import StoreError
from reflayer.store import records
from reflayer.store.blobs import blobs_of, manifest_text, read_stored
from reflayer.store.locks import locked
from reflayer.store.owners import ids_in_layers
from reflayer.store.unpack import layer_there, refuse_incomplete

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images import Image
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage


def packed_image(
    parts: Parts, known: StoredImage, compression: str, progress: Progress | None
) -> Image:
    """The image ``known`` with all of its blobs in the content store.

    What a folder was packed to is recorded, and is the same from then on. The caller shares the
    store's lock.

    Args:
        parts: the store's.
        known: the image.
        compression: of the layer of a folder: ``gzip``, ``zstd`` or ``none``.
        progress: is told the stage ``pack`` and the bytes of the plain layer that are done.

    Raises:
        ArchiveError: a name in the folder cannot be in a layer.
        ImageError, OperationError: something cannot be read or written.
        StoreError: its layer is gone, or lacks what was left out.
    """
    if not known.is_folder:
        return read_stored(known, parts)
    with locked(parts.lock_of(f"pack-{known.layer}")):
        with parts.database.reading() as db:
            known = records.image_with_full_id(db, known.id) or known
        if known.manifest is None:
            image = _pack(parts, known, compression, progress)
            with parts.database.writing() as db:
                records.add_manifest(db, known.id, manifest_text(image), blobs_of(image))
            return image
    return read_stored(known, parts)


def _pack(parts: Parts, known: StoredImage, compression: str, progress: Progress | None) -> Image:
    from reflayer.archive import pack_layer
    from reflayer.images import Platform
    from reflayer.images.build.layer import add_layer
    from reflayer.images.build.manifest import add_image, config_of

    layer = layer_there(known.layer, parts)
    if layer is None:
        raise StoreError(f"image {known.id[:19]}: its layer is gone: take it in anew by rootfs:DIR")
    refuse_incomplete(layer, parts)
    packing = pack_layer(parts.driver.path(layer.id), id_map=ids_in_layers(parts))
    added = add_layer(parts.content, packing, compression, progress)
    config = config_of(Platform.parse(known.platform), added.diff_id)
    return add_image(parts.content, config, (added.layer,))
