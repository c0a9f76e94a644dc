"""An image of the store goes out: to a layout, an archive, or a registry."""

from __future__ import annotations

from functools import partial

from reflayer.errors import ImageError, StoreError, printable
from reflayer.record import replace
from reflayer.store import images
from reflayer.store.collect import making, mark_dirty
from reflayer.store.images import StoredImage
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.images.model.image import Image
    from reflayer.images.model.reference import Reference
    from reflayer.images.registry import Access
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts

_COMPRESSION = "gzip"  # what every program reads


def save(
    parts: Parts, name: str, destination: str, compression: str | None, progress: Progress | None
) -> None:
    from reflayer.images.transports import open_destination

    open_destination(destination)  # a slip there is told first, whatever ``name`` is
    _, found = images.find(parts, name)  # nothing is made in order to save what is not there
    there = open_destination(destination, _reference(found))
    with making(parts):
        mark_dirty(parts)
        known, _ = images.find(parts, name)
        if not there.is_plain:
            image = _compressed_image(parts, known, compression or _COMPRESSION, progress)
        elif compression is None:
            image = packed_image(parts, known, _COMPRESSION, progress)
        else:
            raise ImageError("layers are always plain in a docker-archive: give no compression")
        there.write(parts.content, image, progress)


def push(
    parts: Parts,
    name: str,
    destination: str,
    access: Access | None,
    progress: Progress | None,
    warn: Callable[[str], None] | None,
) -> Reference:
    from reflayer.images.model.reference import refuse_digest
    from reflayer.images.registry.credentials import Access
    from reflayer.images.registry.destination import RegistryDestination
    from reflayer.images.transports import registry_reference

    reference = registry_reference(destination)
    if reference is None:
        raise StoreError(
            f"{printable(destination)} is not in a registry: reflayer save writes such ones"
        )
    refuse_digest(reference)
    images.find(parts, name)  # nothing is made in order to send what is not there
    with making(parts):
        mark_dirty(parts)
        known, _ = images.find(parts, name)
        image = _compressed_image(parts, known, _COMPRESSION, progress)
        mount_from = partial(_repository_with, reference=reference, parts=parts)
        there = RegistryDestination(reference, access or Access(), mount_from, warn)
        there.write(parts.content, image, progress)
    return replace(reference, digest=image.manifest.digest)


def packed_image(
    parts: Parts, known: StoredImage, compression: str, progress: Progress | None
) -> Image:
    """The image ``known`` with all of its blobs in the content store, whose lock is shared.

    A folder that was taken in is packed for that; what it was packed to is recorded, and is the
    same from then on.
    """
    if not known.is_folder:
        return images.read_stored(known, parts)
    with locked(parts.lock_of(f"pack-{known.layer}")):
        with parts.database.reading() as db:
            known = images.image_with_full_id(db, known.id) or known
        if known.manifest is None:
            image = _pack(parts, known, compression, progress)
            with parts.database.writing() as db:
                images.add_manifest(db, known.id, image)
            return image
    return images.read_stored(known, parts)


def _pack(parts: Parts, known: StoredImage, compression: str, progress: Progress | None) -> Image:
    from reflayer.archive import pack_layer
    from reflayer.images.build.layer import add_layer
    from reflayer.images.build.manifest import add_image, config_of
    from reflayer.images.model.platform import Platform

    with parts.database.reading() as db:
        layer = images.layer_there(db, known.layer, parts)
    if layer is None:
        raise StoreError(f"image {known.id[:19]}: its layer is gone: take it in anew by rootfs:DIR")
    images.refuse_incomplete(layer, parts)
    packing = pack_layer(parts.driver.folder(layer.id), id_map=parts.ids_in_layers())
    added = add_layer(parts.content, packing, compression, progress)
    config = config_of(Platform.parse(known.platform), added.diff_id)
    return add_image(parts.content, config, (added.layer,))


def _compressed_image(
    parts: Parts, known: StoredImage, compression: str, progress: Progress | None
) -> Image:
    """As ``packed_image``, and layers that came plain are compressed; others are the same bytes."""
    from reflayer.images.build.manifest import with_compressed_layers

    packed = packed_image(parts, known, compression, progress)
    return with_compressed_layers(parts.content, packed, compression, progress)


def _reference(name: str | None) -> Reference | None:
    """The reference that one of the store's names is; None where it says whence an image came."""
    from reflayer.images.transports import registry_reference

    try:
        return registry_reference(name) if name else None
    except ImageError:
        return None


def _repository_with(digest: str, reference: Reference, parts: Parts) -> str | None:
    """Another repository of the same registry that the blob may be in: an image came from there."""
    with parts.database.reading() as db:
        owners = "SELECT image FROM blobs WHERE digest = ?"
        names = f"SELECT name FROM names WHERE image IN ({owners}) ORDER BY name"
        rows = db.execute(names, (digest,)).fetchall()
    for (name,) in rows:
        other = _reference(name)
        if other is not None and other.domain == reference.domain:
            # Where it is of the same repository, it is there most likely.
            return None if other.path == reference.path else other.path
    return None
