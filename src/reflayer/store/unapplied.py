"""Layers that need not be unpacked since their folder is there: are they what it was made of?"""

from __future__ import annotations

from reflayer.errors import ArchiveError, ImageError
from reflayer.store import records
from reflayer.store.blobs import manifest_text, read_stored

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images import Descriptor, Image
    from reflayer.images.content.resolve import Open
    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage


def check_unapplied(image: Image, count: int, open_blob: Open, parts: Parts) -> None:
    """Look at the lowest ``count`` layers of ``image`` as unpacking them would.

    Otherwise somebody else's blobs could be had for those of an image that is there, by its config.
    Nothing is read of layers that an image on record has, which were looked at when it came.

    Raises:
        ArchiveError, ImageError, OperationError: one is damaged, or another than the config says.
    """
    with parts.database.reading() as db:
        same = db.execute(
            "SELECT 1 FROM images WHERE id = ? AND manifest = ?", (image.id, manifest_text(image))
        ).fetchone()
    if same:
        return
    read: dict[str, frozenset[tuple[str, str]]] = {}
    for layer, diff_id in list(zip(image.layers, image.diff_ids, strict=True))[:count]:
        with parts.database.reading() as db:
            rows = db.execute("SELECT image FROM blobs WHERE digest = ?", (layer.digest,))
            images = [records.image(db, row[0]) for row in rows.fetchall()]
        for known in images:
            if known.id not in read:
                read[known.id] = _layers_of(known, parts)
        if not any((layer.digest, diff_id) in read[known.id] for known in images):
            _check(layer, diff_id, open_blob)


def _layers_of(known: StoredImage, parts: Parts) -> frozenset[tuple[str, str]]:
    """The digest of each layer's blob, with the diff id that it was found to have."""
    try:
        image = read_stored(known, parts)
    except ImageError:  # damaged: no word of it counts
        return frozenset()
    return frozenset(
        (one.digest, diff_id) for one, diff_id in zip(image.layers, image.diff_ids, strict=True)
    )


def _check(layer: Descriptor, diff_id: str, open_blob: Open) -> None:
    from reflayer.images.build.layer import plain_tar
    from reflayer.images.model.descriptor import digest_text, hash_like

    hashing = hash_like(diff_id)
    try:
        with open_blob(layer.digest) as blob, plain_tar(blob, layer.size) as chunks:
            for chunk in chunks:
                hashing.update(chunk)
    except ArchiveError as error:
        raise ArchiveError(f"layer {layer.digest}: {error}") from error
    if digest_text(hashing) != diff_id:
        raise ArchiveError(
            f"layer {layer.digest}: its diff id is {digest_text(hashing)}, but the config says "
            f"{diff_id}"
        )
