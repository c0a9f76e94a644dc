"""An image's chain of layers becomes one folder, from the deepest part of it that is there."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager

from reflayer.errors import ArchiveError, ImageError, failing
from reflayer.store import images
from reflayer.store.images import StoredLayer
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from sqlite3 import Connection

    from reflayer.images.content.resolve import Open
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.image import Image
    from reflayer.progress import Progress
    from reflayer.store.images import StoredImage
    from reflayer.store.parts import Parts


def unpack(
    image: Image,
    parts: Parts,
    progress: Progress | None,
    *,
    folder: StoredLayer | None = None,
    open_blob: Open | None = None,
) -> None:
    """Have the layer of ``image`` in the driver and on record; nothing is done where it is.

    Another process that wants the same chain at the same time waits, and then finds it.

    Args:
        folder: what the image's lowest layer was packed from, and can be cloned from.
        open_blob: opens a layer by its digest, and checks it on the way: reading its end raises if
            it is another. By default layers come from the content store.
    """
    top = images.layer_of(image)
    with locked(parts.lock_of(top)):
        with parts.database.reading() as db:
            known = images.layer_there(db, top, parts)
            depth, below = (len(image.layers), known) if known else _deepest(db, image, parts)
        if known is None:
            parts.driver.remove(top)  # whole, but its maker was killed before it was recorded
            if below is None and folder is not None:
                depth, below = 1, folder
        else:
            images.refuse_incomplete(known, parts)
        _verify_diff_ids(image, depth, open_blob or parts.content.open, parts)
        if known is None:
            layer = _apply(image, depth, below, below is folder, open_blob, parts, progress)
            with parts.database.writing() as db:
                images.add_layer(db, layer)


def _deepest(db: Connection, image: Image, parts: Parts) -> tuple[int, StoredLayer | None]:
    """How many of the image's layers are there already, as one folder, and that folder."""
    for depth in range(len(image.chain_ids) - 1, 0, -1):
        known = images.layer_there(db, images.layer_id(image.chain_ids[depth - 1]), parts)
        if known is not None and not (known.skipped and parts.ownership == "keep"):
            return depth, known
    return 0, None


def _apply(
    image: Image,
    depth: int,
    below: StoredLayer | None,
    is_packed: bool,
    open_blob: Open | None,
    parts: Parts,
    progress: Progress | None,
) -> StoredLayer:
    """Apply the layers above ``depth`` onto a clone of ``below``, which is those up to it.

    Where it ``is_packed``, it is the folder that the lowest layer was packed from.
    """
    from reflayer.archive import apply_layer
    from reflayer.driver.home import writing_back

    top = images.layer_of(image)
    size = below.size if below else 0
    skipped = dict(below.skipped) if below else {}
    missing = list(zip(image.layers, image.diff_ids, strict=True))[depth:]
    total = sum(blob.size for blob, _ in missing)
    before = 0  # bytes of the blobs that are done
    with (
        parts.driver.build(top, below.id if below else None, progress=progress) as folder,
        writing_back(folder) as written,
    ):

        def told(done: int) -> None:
            written(before + done)
            if progress is not None:
                progress("unpack", before + done, total)

        if below and is_packed:
            _remove_sockets(folder)
        for blob, diff_id in missing:
            with (open_blob or parts.content.open)(blob.digest) as file, _naming(blob):
                applied = apply_layer(
                    folder,
                    file,
                    digest=blob.digest,
                    size=blob.size,
                    diff_id=diff_id,
                    checked=open_blob is not None,
                    ownership=parts.ownership,
                    progress=told,
                )
            before += blob.size
            size += applied.plain_size
            for kind, count in applied.skipped.items():
                skipped[kind] = skipped.get(kind, 0) + count
    return StoredLayer(top, size, skipped if parts.ownership == "ignore" else {})


@contextmanager
def _naming(layer: Descriptor) -> Iterator[None]:
    """Say of which layer an error is that names only what is in it."""
    try:
        yield
    except ArchiveError as error:
        raise ArchiveError(f"layer {layer.digest}: {error}") from error


def _remove_sockets(root: str) -> None:
    """Make a folder's clone what unpacking its layer would have made: all but the sockets."""
    from reflayer.archive.tree_diff import TreeDiff

    for found in TreeDiff(root):
        if found.name and stat.S_ISSOCK(found.status.st_mode):
            times = (found.folder.status.st_atime_ns, found.folder.status.st_mtime_ns)
            with failing(os.path.join(os.fsencode(root), found.folder.path(found.name)), "unlink"):
                os.unlink(found.name, dir_fd=found.folder.fd)
                os.utime(found.folder.fd, ns=times)


def _verify_diff_ids(image: Image, count: int, open_blob: Open, parts: Parts) -> None:
    """Verify the diff ids of the lowest layers, which are not unpacked as their folder exists."""
    # Without this, a manifest that pairs a known config (hence a known chain id) with other blobs
    # would be stored, and pushed on, as that image. Blobs that an image on record pairs with the
    # same diff id are not read: they were when it came.
    with parts.database.reading() as db:
        known = (image.id, images.manifest_text(image))
        if db.execute("SELECT 1 FROM images WHERE id = ? AND manifest = ?", known).fetchone():
            return
    read: dict[str, frozenset[tuple[str, str]]] = {}
    for layer, diff_id in list(zip(image.layers, image.diff_ids, strict=True))[:count]:
        with parts.database.reading() as db:
            rows = db.execute("SELECT image FROM blobs WHERE digest = ?", (layer.digest,))
            owners = [images.image_with_id(db, row[0]) for row in rows.fetchall()]
        for owner in owners:
            if owner.id not in read:
                read[owner.id] = _layers_of(owner, parts)
        if not any((layer.digest, diff_id) in read[owner.id] for owner in owners):
            _check(layer, diff_id, open_blob)


def _layers_of(known: StoredImage, parts: Parts) -> frozenset[tuple[str, str]]:
    """The digest of each layer's blob, with the diff id that it was found to have."""
    try:
        image = images.read_stored(known, parts)
    except ImageError:  # damaged: no word of it counts
        return frozenset()
    digests = [layer.digest for layer in image.layers]
    return frozenset(zip(digests, image.diff_ids, strict=True))


def _check(layer: Descriptor, diff_id: str, open_blob: Open) -> None:
    from reflayer.images.build.layer import plain_tar
    from reflayer.images.model.descriptor import digest_text, hash_like

    hashing = hash_like(diff_id)
    with _naming(layer), open_blob(layer.digest) as blob, plain_tar(blob, layer.size) as chunks:
        for chunk in chunks:
            hashing.update(chunk)
    if (found := digest_text(hashing)) != diff_id:
        raise ArchiveError(
            f"layer {layer.digest}: its diff id is {found}, but the config says {diff_id}"
        )
