"""What changed in a container becomes a layer, and with its image's others a new image."""

from __future__ import annotations

import time

from reflayer.images.build.layer import add_layer
from reflayer.images.build.manifest import ConfigChanges, child_config, oci_layers
from reflayer.images.build.manifest import add_image as add_blobs
from reflayer.images.content.resolve import read_document
from reflayer.images.model.image import LARGEST_CONFIG
from reflayer.images.transports import new_name
from reflayer.record import record
from reflayer.store import images
from reflayer.store.checkpoints import layer_of
from reflayer.store.collect import making, mark_dirty
from reflayer.store.images import StoredImage
from reflayer.store.save import packed_image
from reflayer.store.unpack import take_packed, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.archive import Packing
    from reflayer.images.build.layer import NewLayer
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts


@record
class Committed:
    """An image that a container has become, and how many things of which kind are not in it.

    Attributes:
        skipped: by kind: ``socket``, and ``mount`` for what is mounted there.
    """

    image: StoredImage
    skipped: Mapping[str, int]


def commit(
    parts: Parts,
    name: str,
    image: str,
    changes: ConfigChanges | None,
    author: str,
    message: str,
    created: float | None,
    compression: str,
    progress: Progress | None,
) -> Committed:
    reference = new_name(image)
    container, layer = layer_of(parts, name)
    with parts.database.reading() as db:
        parent = images.image_with_id(db, container.image_id)
    with making(parts):
        mark_dirty(parts)
        base = packed_image(parts, parent, compression, progress)
        added, packing = _pack_changes(parts, layer, parent.layer, compression, progress)
        config = child_config(
            read_document(base.config, parts.content.open, LARGEST_CONFIG),
            base.platform,
            added.diff_id if packing.entries else None,
            changes or ConfigChanges(),
            created=time.time() if created is None else created,
            author=author,
            message=message,
        )
        layers = (*base.layers, added.layer) if packing.entries else base.layers
        made = add_blobs(parts.content, config, oci_layers(parts.content, layers))
        # From the blobs, and not from the container, which goes on changing: so the layer is the
        # same wherever the image is unpacked.
        with parts.database.reading() as db:
            folder = images.layer_there(db, parent.layer, parts) if parent.is_folder else None
        if folder is not None:
            take_packed(base, folder, parts)
        unpack(made, parts, progress)
        with parts.database.writing() as db:
            images.add_image(db, images.record_of(made, (str(reference),)), images.blobs_of(made))
            parts.remember_ownership(db)
            return Committed(images.image_with_id(db, made.id), packing.skipped)


def _pack_changes(
    parts: Parts, layer: str, parent: str, compression: str, progress: Progress | None
) -> tuple[NewLayer, Packing]:
    """What is different in ``layer`` from ``parent`` as a blob of the content store."""
    with parts.driver.packing(layer, parent, parts.ids_in_layers()) as packing:
        return add_layer(parts.content, packing, compression, progress), packing
