"""What changed in a container becomes a layer, and with its image's others a new image.

An image gets another name, too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from reflayer.archive import pack_layer
from reflayer.images.build.commit_config import ConfigChanges, child_config
from reflayer.images.build.layer import add_layer
from reflayer.images.build.manifest import add_image, oci_layers
from reflayer.images.content.resolve import read_document
from reflayer.images.model.image import LARGEST_CONFIG
from reflayer.images.transports import new_name
from reflayer.store import records
from reflayer.store.blobs import blobs_of, record_of
from reflayer.store.collect import collect
from reflayer.store.containers import container_with_folder
from reflayer.store.find import find_image
from reflayer.store.making import making
from reflayer.store.owners import ids_in_layers, remember_ownership
from reflayer.store.packed import packed_image
from reflayer.store.unpack import layer_there, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.archive import Packing
    from reflayer.images.build.layer import NewLayer
    from reflayer.progress import Progress
    from reflayer.store.containers import Container
    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage


@dataclass(frozen=True, slots=True)
class Committed:
    """An image that a container has become.

    Attributes:
        image: its record.
        skipped: what is not in it, by kind: ``socket``, and ``mount`` for what is mounted there.
    """

    image: StoredImage
    skipped: Mapping[str, int]


def commit(
    parts: Parts,
    name: str,
    image: str,
    changes: ConfigChanges | None,
    *,
    author: str,
    message: str,
    created: float | None,
    compression: str,
    progress: Progress | None,
) -> Committed:
    """What ``Store.commit`` does.

    The new image's layer is made from its blobs, and not of the container itself: so it is what
    everybody gets who has the image, though the container goes on changing.
    """
    reference = new_name(image)
    with parts.database.reading() as db:
        container = container_with_folder(db, name, parts)
        parent = records.image(db, container.image_id)
    with making(parts):
        base = packed_image(parts, parent, compression, progress)
        added, packing = _pack_changes(parts, container, parent.layer, compression, progress)
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
        made = add_image(parts.content, config, oci_layers(parts.content, layers))
        unpack(made, parts, progress, folder=_folder(parent, parts))
        with parts.database.writing() as db:
            records.add_image(db, record_of(made, (str(reference),)), blobs_of(made), "")
            remember_ownership(db, parts)
            return Committed(records.image(db, made.id), packing.skipped)


def tag(parts: Parts, image: str, name: str) -> StoredImage:
    """What ``Store.tag`` does."""
    reference = new_name(name)
    with parts.database.reading() as db:
        find_image(db, image)  # nothing is made in order to name what is not there
    with parts.database.writing() as db:
        known, _ = find_image(db, image)
        db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, '')", (str(reference), known.id))
        known = records.image(db, known.id)
    collect(parts)  # what was called so
    return known


def _pack_changes(
    parts: Parts,
    container: Container,
    layer: str,
    compression: str,
    progress: Progress | None,
) -> tuple[NewLayer, Packing]:
    """What is different in ``container`` from ``layer`` as a blob of the content store."""
    cloned = parts.driver.cloned(container.id, layer)
    packing = pack_layer(
        container.path, parts.driver.path(layer), cloned=cloned, id_map=ids_in_layers(parts)
    )
    added = add_layer(parts.content, packing, compression, progress)
    parts.driver.path(container.id)  # else its deletion may have gone before us
    return added, packing


def _folder(parent: StoredImage, parts: Parts) -> records.StoredLayer | None:
    return layer_there(parent.layer, parts) if parent.is_folder else None
