"""An image's chain of layers: those that are missing are unpacked, side by side.

Each is a difference on the one below; the lowest is whole. They are begun in the order of the
chain: so one that needs something of what is below, as most do in the end, waits for a layer that
is there, or at work. As many are at work as there are processors, and some more wait. They are
written out and recorded in that order, too, as soon as all below them are complete, and together
what has become so meanwhile.

Where the driver keeps no differences the chain becomes one layer: a clone of the deepest part of it
that is there, to which what is missing is applied in turn.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from functools import partial

from reflayer.errors import ArchiveError, ImageError
from reflayer.record import record
from reflayer.store import images
from reflayer.store.images import StoredLayer
from reflayer.workers.lock import locked, open_locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reflayer.archive import AppliedLayer
    from reflayer.images.content.resolve import Open
    from reflayer.images.content.source import LayerBlobs
    from reflayer.images.content.transfer import Told
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.image import Image
    from reflayer.progress import Progress
    from reflayer.store.images import StoredImage
    from reflayer.store.parts import Parts
    from reflayer.walk.stack import Stack

_MOST_WAITING = 8  # layers, each with some files open


@record
class _Layer:
    """One layer of a chain, and the blob that it is unpacked from."""

    number: int  # among those that are missing
    id: str
    blob: Descriptor
    diff_id: str

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self.blob.size


def unpack(
    image: Image, parts: Parts, progress: Progress | None, blobs: LayerBlobs | None = None
) -> None:
    """Have the layers of ``image`` in the driver and on record; nothing is done where they are.

    Another process that wants one of them at the same time waits, and then finds it. ``blobs`` are
    the image's layers, by default those in the content store.
    """
    from reflayer.images.content.source import LayerBlobs

    blobs = blobs or LayerBlobs(parts.content.open)
    ids = images.chain_of(image)
    locks: list[int] = []  # of what is missing, the lowest last
    try:
        below, is_stack = _lock_missing(ids, parts, locks)
        depth = 0 if below is None else ids.index(below.id) + 1
        if below is not None and depth == len(ids):
            images.refuse_incomplete(below, parts)
        _verify_diff_ids(image, depth, blobs.open, parts)
        above = list(zip(ids, image.layers, image.diff_ids, strict=False))[depth:]
        missing = [_Layer(number, *one) for number, one in enumerate(above)]
        if depth == len(ids):
            return
        if is_stack and missing:
            _Stacking(missing, below, blobs, parts, locks).run(progress)
        else:
            _unpack_whole(ids[-1], missing, below, blobs, parts, progress)
    finally:
        for lock in locks:
            os.close(lock)


def _lock_missing(
    ids: Sequence[str], parts: Parts, locks: list[int]
) -> tuple[StoredLayer | None, bool]:
    """Lock the layers of a chain that are missing, from the top down.

    Returns:
        The topmost that is there, and whether those above it can be a stack.
    """
    is_stack = parts.driver.keeps_differences
    for id in reversed(ids):
        is_top = id == ids[-1]
        lock = open_locked(parts.lock_of(id)) if is_stack or is_top else None
        if lock is not None:
            locks.append(lock)
        with parts.database.reading() as db:
            known = images.layer_there(db, id, parts)
        if known is None:
            continue
        if is_top or not known.skipped or parts.ownership != "keep":
            if lock is not None:
                os.close(locks.pop())
            return known, is_stack
        is_stack = False  # it lacks something, and has the place of one that would not
    return None, is_stack


class _Stacking:
    """The layers of a chain that are missing become differences, each on the one below."""

    def __init__(
        self,
        missing: list[_Layer],
        below: StoredLayer | None,
        blobs: LayerBlobs,
        parts: Parts,
        locks: list[int],
    ) -> None:
        """What is ``below`` them all is there; ``locks`` are theirs, the lowest's last."""
        self._missing = missing
        self._lowest = below.id if below else None
        self._below = below  # the topmost on record
        self._blobs = blobs
        self._parts = parts
        self._locks = locks
        self._applied: list[AppliedLayer] = []  # those that are in the driver
        self._recorded = 0

    def run(self, progress: Progress | None) -> None:
        """Have them in the driver and on record."""
        from threading import Semaphore

        from reflayer.driver.home import opened
        from reflayer.driver.write_back import writing_back
        from reflayer.images.content.transfer import Transfer
        from reflayer.workers.pool import usable_cpus

        driver, cpus = self._parts.driver, usable_cpus()
        for layer in reversed(self._missing):
            driver.remove(layer.id)  # complete, but its maker was killed before it was on record
        self._turns = Semaphore(cpus)
        with opened(driver.home) as home, writing_back(driver.home, driver.home) as written:

            def told(stage: str, done: int, total: int | None) -> None:
                written(done)
                if progress is not None:
                    progress(stage, done, total)

            self._transfer = Transfer(
                "unpack", self._missing, self._unpack, told, self._blobs.stop, cpus + _MOST_WAITING
            )
            with self._transfer.running():
                while self._recorded < len(self._missing):
                    self._transfer.wait(lambda: len(self._applied) > self._recorded)
                    self._record(home)

    def _unpack(self, layer: _Layer, told: Told) -> None:
        driver = self._parts.driver
        lower = self._lower(layer)
        with self._turns:
            if lower is None:
                with driver.build(layer.id, durable=False) as path:
                    applied = _apply(layer, path, self._blobs, self._parts, told)
            else:

                def below() -> Stack:
                    self._wait_for_below(layer)
                    return driver.stack(lower)

                with driver.build_difference(layer.id, lower, durable=False) as path:
                    applied = _apply(layer, path, self._blobs, self._parts, told, below)
                    self._wait_for_below(layer)
            with self._transfer.changing():
                self._applied.append(applied)

    def _wait_for_below(self, layer: _Layer) -> None:
        """Let others work until all layers below are in the driver."""
        if len(self._applied) >= layer.number:
            return
        self._turns.release()
        try:
            self._transfer.wait(lambda: len(self._applied) >= layer.number)
        finally:
            self._turns.acquire()

    def _lower(self, layer: _Layer) -> str | None:
        """The layer that it lies on."""
        if layer.number:
            return self._missing[layer.number - 1].id
        return self._lowest

    def _record(self, home: int) -> None:
        """Record all that have come into the driver, and let go of their locks.

        They are written out before; ``home`` is the driver's, open since before there were any.
        """
        from reflayer.driver.home import write_out

        count = len(self._applied)
        write_out(home, self._parts.driver.home)
        with self._parts.database.writing() as db:
            for layer in self._missing[self._recorded : count]:
                applied, lower = self._applied[layer.number], self._lower(layer)
                self._below = _record_of(layer.id, self._below, applied, self._parts, lower)
                images.add_layer(db, self._below)
        for _ in range(count - self._recorded):
            os.close(self._locks.pop())
        self._recorded = count


def _unpack_whole(
    id: str,
    missing: list[_Layer],
    below: StoredLayer | None,
    blobs: LayerBlobs,
    parts: Parts,
    progress: Progress | None,
) -> None:
    """Make the whole layer ``id``: a clone of ``below``, and what is missing applied to it."""
    from reflayer.driver.write_back import writing_back

    driver = parts.driver
    driver.remove(id)  # as above
    total = sum(layer.size for layer in missing)
    before = 0  # bytes of the blobs that are done

    def told(done: int) -> None:
        written(before + done)
        if progress is not None:
            progress("unpack", before + done, total)

    made = below
    with (
        driver.build(id, below.id if below else None, progress=progress) as path,
        writing_back(path, parts.driver.home) as written,
    ):
        for layer in missing:
            made = _record_of(id, made, _apply(layer, path, blobs, parts, told), parts)
            before += layer.size
    with parts.database.writing() as db:
        images.add_layer(db, made or StoredLayer(id, 0, {}))


def _apply(
    layer: _Layer,
    path: str,
    blobs: LayerBlobs,
    parts: Parts,
    told: Told,
    below: Callable[[], Stack] | None = None,
) -> AppliedLayer:
    from reflayer.archive import apply_layer

    blob = layer.blob
    with blobs.open(blob.digest) as file, _naming(blob):
        return apply_layer(
            path,
            file,
            digest=blob.digest,
            size=blob.size,
            diff_id=layer.diff_id,
            checked=blobs.checked,
            ownership=parts.ownership,
            progress=told,
            below=below,
        )


def _record_of(
    id: str,
    below: StoredLayer | None,
    applied: AppliedLayer,
    parts: Parts,
    parent: str | None = None,
) -> StoredLayer:
    """The record of a layer that was applied to ``below``."""
    skipped = dict(below.skipped) if below else {}
    for kind, count in applied.skipped.items() if parts.ownership != "keep" else ():
        skipped[kind] = skipped.get(kind, 0) + count
    return StoredLayer(id, (below.size if below else 0) + applied.plain_size, skipped, parent)


@contextmanager
def _naming(layer: Descriptor) -> Iterator[None]:
    """Say of which layer an error is that names only what is in it."""
    try:
        yield
    except ArchiveError as error:
        raise ArchiveError(f"layer {layer.digest}: {error}") from error


def take_packed(image: Image, folder: StoredLayer, parts: Parts) -> None:
    """Have the lowest layer of ``image``, which ``folder`` was packed to, made from that."""
    from reflayer.archive import apply_stream

    driver = parts.driver
    id = images.chain_of(image)[0]
    with locked(parts.lock_of(id)):
        with parts.database.reading() as db:
            if images.layer_there(db, id, parts):
                return
        driver.remove(id)  # complete, but its maker was killed before it was on record
        tar = io.BytesIO(_without_sockets(driver.folder(folder.id)))
        parent = folder.id if driver.keeps_differences else None
        if parent is None:
            with driver.build(id, folder.id) as path:
                apply_stream(path, tar, ownership=parts.ownership)
        else:
            with driver.build_difference(id, parent) as path:
                below = partial(driver.stack, parent)
                apply_stream(path, tar, ownership=parts.ownership, below=below)
        with parts.database.writing() as db:
            images.add_layer(db, StoredLayer(id, folder.size, folder.skipped, parent))


def _without_sockets(root: str) -> bytes:
    """A layer that deletes the sockets in a tree: what was packed has none."""
    from reflayer.archive.tar_header import END, FILE, Entry, headers
    from reflayer.archive.tree_diff import TreeDiff
    from reflayer.archive.whiteouts import WHITEOUT_PREFIX

    names = [
        found.folder.path(WHITEOUT_PREFIX + found.name)
        for found in TreeDiff(root)
        if found.name and stat.S_ISSOCK(found.status.st_mode)
    ]
    return b"".join([*(headers(Entry(name, FILE)) for name in names), END])


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
