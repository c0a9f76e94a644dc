"""An image's chain of layers becomes one folder, from the deepest part of it that is there."""

from __future__ import annotations

from reflayer.errors import StoreError, counted
from reflayer.store import records
from reflayer.store.blobs import layer_id, layer_of
from reflayer.store.locks import locked
from reflayer.store.records import StoredLayer
from reflayer.store.sockets import remove_sockets
from reflayer.store.unapplied import check_unapplied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.images import Image
    from reflayer.images.content.resolve import Open
    from reflayer.progress import Progress
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

    Who wants the same chain at the same time waits, and then finds it there.

    Args:
        image: an image whose blobs are in the content store, unless ``open_blob`` has them.
        parts: the store's.
        progress: is told the stages ``clone`` (entries) and ``unpack`` (the blobs' bytes).
        folder: what the image's lowest layer was packed from, and can be cloned from.
        open_blob: opens a layer by its digest, and checks it on the way: reading its end raises if
            it is another. By default layers come from the content store.

    Raises:
        ArchiveError, ImageError, OperationError, CopyError: it cannot be unpacked.
        StoreError: it is there, but things were left out that ``ownership="keep"`` asks for.
    """
    top = layer_of(image)
    with locked(parts.lock_of(top)):
        known = layer_there(top, parts)
        if known is not None:
            refuse_incomplete(known, parts)
            check_unapplied(image, len(image.layers), open_blob or parts.content.open, parts)
            return
        parts.driver.remove(top)  # whole, but whoever made it was killed before it was recorded
        deepest = _deepest(image, folder, parts)
        check_unapplied(image, deepest[0], open_blob or parts.content.open, parts)
        layer = _apply(image, deepest, folder, open_blob, parts, progress)
        with parts.database.writing() as db:
            records.add_layer(db, layer)


def layer_there(layer_id: str, parts: Parts) -> StoredLayer | None:
    """The record of a layer whose folder is there, too."""
    with parts.database.reading() as db:
        known = records.layer(db, layer_id)
    return known if known is not None and parts.driver.exists(layer_id) else None


def refuse_incomplete(layer: StoredLayer, parts: Parts) -> None:
    """Raise StoreError where ``layer`` lacks what was left out and is now to be kept."""
    if layer.skipped and parts.ownership == "keep":
        raise StoreError(
            "the image is there as --ownership ignore unpacked it, which left out "
            f"{counted(layer.skipped)}: use that again, or remove the image first"
        )


def _deepest(
    image: Image, folder: StoredLayer | None, parts: Parts
) -> tuple[int, StoredLayer | None]:
    """How many of the image's layers are there already, as one folder, and that folder."""
    chain_ids = image.chain_ids
    for depth in range(len(chain_ids) - 1, 0, -1):
        known = layer_there(layer_id(chain_ids[depth - 1]), parts)
        if known is not None and not (known.skipped and parts.ownership == "keep"):
            return depth, known
    return (0, None) if folder is None else (1, folder)


def _apply(
    image: Image,
    deepest: tuple[int, StoredLayer | None],
    packed: StoredLayer | None,
    open_blob: Open | None,
    parts: Parts,
    progress: Progress | None,
) -> StoredLayer:
    """Apply the image's other layers onto a clone of the deepest that is there."""
    from reflayer.archive import ArchiveError, apply_layer
    from reflayer.driver.sync import writing_back

    depth, below = deepest
    top = layer_of(image)
    size = below.size if below else 0
    skipped = dict(below.skipped) if below else {}
    missing = list(zip(image.layers, image.diff_ids, strict=True))[depth:]
    parent = below.id if below else None
    with (
        parts.driver.build(top, parent, progress=progress) as folder,
        writing_back(folder) as written,
    ):
        told = _Told(progress, sum(blob.size for blob, _ in missing), written)
        if packed is not None and below == packed:
            remove_sockets(folder)
        for blob, diff_id in missing:
            with (open_blob or parts.content.open)(blob.digest) as file:
                try:
                    applied = apply_layer(
                        folder,
                        file,
                        digest=blob.digest,
                        size=blob.size,
                        diff_id=diff_id,
                        checked=open_blob is not None,
                        ownership=parts.ownership,
                        progress=told.within,
                    )
                except ArchiveError as error:
                    raise ArchiveError(f"layer {blob.digest}: {error}") from error
            told.finished(blob.size)
            size += applied.plain_size
            for kind, count in applied.skipped.items():
                skipped[kind] = skipped.get(kind, 0) + count
    return StoredLayer(top, size, skipped if parts.ownership == "ignore" else {})


class _Told:
    """Adds up what is read of one blob after the other, and tells the sum."""

    def __init__(self, progress: Progress | None, total: int, also: Callable[[int], None]) -> None:
        self._progress = progress
        self._total = total
        self._also = also
        self._before = 0

    def within(self, done: int) -> None:
        """So many bytes of this blob are read."""
        self._also(self._before + done)
        if self._progress is not None:
            self._progress("unpack", self._before + done, self._total)

    def finished(self, size: int) -> None:
        """This blob, of ``size`` bytes, is read; the next follows."""
        self._before += size
