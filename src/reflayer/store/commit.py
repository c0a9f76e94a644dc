"""What changed in a container becomes a layer, and with its image's others a new image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflayer.archive import pack_layer
from reflayer.errors import ImageError, printable
from reflayer.images import Reference, open_source
from reflayer.images.child import ConfigChanges, child_config
from reflayer.images.image import LARGEST_CONFIG
from reflayer.images.made import add_image
from reflayer.images.new_layer import add_layer
from reflayer.images.remade import oci_layers
from reflayer.images.resolve import read_document
from reflayer.store import records
from reflayer.store.blobs import blobs_of, record_of
from reflayer.store.packed import packed_image
from reflayer.store.unpack import layer_there, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.store.containers import Container
    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage
    from reflayer.store.unpack import Progress


@dataclass(frozen=True, slots=True)
class Committed:
    """An image that a container has become.

    Attributes:
        image: its record.
        skipped: what is not in it, by kind: ``socket``, and ``mount`` for what is mounted there.
    """

    image: StoredImage
    skipped: Mapping[str, int]


def new_name(text: str) -> Reference:
    """The name that an image is to be recorded by.

    Raises:
        ImageError: it cannot be an image's name, or is one of a place or with a digest.
    """
    reference = open_source(text)
    if not isinstance(reference, Reference):
        raise ImageError(f"{printable(text)} is a place, not an image's name: save it there then")
    if reference.digest:
        raise ImageError(f"{printable(text)}: a new image's name has no digest yet")
    return reference


def commit(
    parts: Parts,
    container: Container,
    name: Reference,
    changes: ConfigChanges,
    *,
    author: str,
    message: str,
    created: float | None,
    compression: str,
    progress: Progress | None,
) -> Committed:
    """What ``Store.commit`` does; the caller shares the store's lock.

    The new image's layer is made from its blobs, and not of the container itself: so it is what
    everybody gets who has the image, though the container goes on changing.
    """
    content = parts.content
    with parts.database.reading() as db:
        parent = records.image(db, container.image_id)
    base = packed_image(parts, parent, compression, progress)
    cloned = parts.driver.cloned(container.id, parent.layer)
    packing = pack_layer(container.path, parts.driver.path(parent.layer), cloned=cloned)
    added = add_layer(content, packing, compression, progress)
    parts.driver.path(container.id)  # else its deletion may have gone before us
    config = child_config(
        read_document(base.config, content.open, LARGEST_CONFIG),
        added.diff_id if packing.entries else None,
        changes,
        created=time.time() if created is None else created,
        author=author,
        message=message,
    )
    layers = (*base.layers, added.layer) if packing.entries else base.layers
    image = add_image(content, config, oci_layers(layers))
    unpack(image, parts, progress, folder=_folder(parent, parts))
    with parts.database.writing() as db:
        records.add_image(db, record_of(image, (str(name),)), blobs_of(image), "")
        return Committed(records.image(db, image.id), packing.skipped)


def _folder(parent: StoredImage, parts: Parts) -> records.StoredLayer | None:
    return layer_there(parent.layer, parts) if parent.is_folder else None
