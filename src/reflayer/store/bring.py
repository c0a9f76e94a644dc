"""What a user calls an image becomes an image whose layer is there, wherever it comes from."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass

from reflayer.errors import OperationError, StoreError, printable
from reflayer.store import records
from reflayer.store.blobs import blobs_of, read_stored, record_of
from reflayer.store.find import find_image, look_for_image
from reflayer.store.ids import is_full_id
from reflayer.store.locks import locked
from reflayer.store.names import new_id
from reflayer.store.records import StoredImage, StoredLayer
from reflayer.store.unpack import layer_there, refuse_incomplete, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack

    from reflayer.images import Platform, RootFs, Source
    from reflayer.images.registry import Access
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts

_UNSETTLED = 2.0  # seconds in which a file can change again without its times telling


@dataclass(frozen=True, slots=True)
class Brought:
    """An image whose layer is there and recorded, and what is to be recorded of itself.

    Attributes:
        image: its record; ``names`` are those that move to it.
        blobs: the digests of all that it refers to.
        called: what to call it in a container's record.
        stamp: what tells whether its source is still the same; empty where that is not known.
    """

    image: StoredImage
    blobs: frozenset[str]
    called: str
    stamp: str = ""


def bring(
    text: str,
    platform: Platform | None,
    pull: str,
    access: Access | None,
    parts: Parts,
    until: ExitStack,
    progress: Progress | None,
) -> Brought:
    """Fetch and unpack what is not there of the image ``text``.

    The caller shares the store's lock until the image is recorded.

    Args:
        text: ``oci:DIR[:TAG]``, ``docker-archive:FILE[:REF]``, ``tar:FILE``, ``rootfs:DIR``, or
            the name or id of an image that is in the store or, a name, in its registry.
        platform: which of several to take, or None for what this machine runs.
        pull: ``missing``; ``always`` to ask the registry, or take in a folder, though the store has
            it; ``never`` to take nothing but what the store has.
        access: how a registry is to be spoken to; as usual where it is None.
        parts: the store's.
        until: gets what has to be held until the image is recorded.
        progress: is told the stages ``fetch``, ``clone`` and ``unpack``.

    Raises:
        ReflayerError: it cannot be had.
    """
    from reflayer.images import Reference, RootFs, open_source

    with parts.database.reading() as db:
        is_id = is_full_id(text) or records.image_with_full_id(db, text) is not None
    source = None if is_id or pull == "never" else open_source(text)
    if isinstance(source, RootFs):
        return _from_folder(source, pull, parts, until, progress)
    if source is not None and not isinstance(source, Reference):
        return _from_source(source, text, platform, parts, progress)
    if source is None and pull == "always":
        raise StoreError(f"{printable(text)}: an id cannot be pulled: give the image's name")
    if pull != "always":
        with parts.database.reading() as db:
            known, name = (look_for_image if source else find_image)(db, text)
        fits = platform is None or (known and known.platform in map(str, platform.fitting()))
        if known is not None and fits:
            called = name or (text if "@" in text else known.id)
            return _from_store(known, called, parts, progress)
        if known is not None and source is None:
            raise StoreError(f"{printable(text)}: is for {known.platform}, not for {platform}")
    assert source is not None
    from reflayer.store.from_registry import pull_image

    image = pull_image(source, platform, access, parts, progress)
    name = str(source)
    return Brought(record_of(image, (name,)), blobs_of(image), name)


def _from_source(
    source: Source,
    text: str,
    platform: Platform | None,
    parts: Parts,
    progress: Progress | None,
) -> Brought:
    """From a local transport, which is asked anew each time: its tag may have moved."""
    stamp = _stamp(text)
    known = None
    if stamp:
        with parts.database.reading() as db:
            known = records.image_named(db, source.name, stamp)
    if known is not None and (platform is None or known.platform == str(platform)):
        names: tuple[str, ...] = (source.name,)
        image = read_stored(known, parts)
    else:
        image, names = source.fetch(parts.content, platform, progress)
    unpack(image, parts, progress)
    return Brought(record_of(image, names), blobs_of(image), names[0], stamp)


def _from_store(
    known: StoredImage, called: str, parts: Parts, progress: Progress | None
) -> Brought:
    if known.is_folder:
        layer = layer_there(known.layer, parts)
        if layer is None:
            raise StoreError(
                f"{printable(called)}: its layer is gone: take it in anew by rootfs:DIR"
            )
        refuse_incomplete(layer, parts)
        return Brought(known, frozenset(), called)
    image = read_stored(known, parts)
    unpack(image, parts, progress)
    return Brought(record_of(image, ()), blobs_of(image), called)


def _from_folder(
    source: RootFs, pull: str, parts: Parts, until: ExitStack, progress: Progress | None
) -> Brought:
    """From a folder, which is cloned at its first use; others who want it wait until then."""
    from reflayer.copy import copy_tree
    from reflayer.images import Platform

    digest = hashlib.sha256(os.fsencode(source.name)).hexdigest()
    until.enter_context(locked(parts.lock_of(f"rootfs-{digest}")))
    stamp = _folder_stamp(source.path)
    with parts.database.reading() as db:
        reusable = stamp and pull != "always"
        known = records.image_named(db, source.name, stamp) if reusable else None
    layer = None if known is None else layer_there(known.layer, parts)
    if known is not None and layer is not None:
        refuse_incomplete(layer, parts)
        return Brought(known, frozenset(), source.name, stamp)
    layer_id = new_id()
    with parts.driver.build(layer_id) as folder:
        report = copy_tree(source.path, folder, ownership=parts.ownership, progress=progress)
    with parts.database.writing() as db:
        size = sum(report.bytes.values())
        skipped = report.skipped if parts.ownership == "ignore" else {}
        records.add_layer(db, StoredLayer(layer_id, size, skipped))
    image = StoredImage(
        id=f"sha256:{layer_id}",
        names=(source.name,),
        platform=str(Platform.of_machine()),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        layer=layer_id,
        manifest=None,
        size=None,
    )
    return Brought(image, frozenset(), source.name, stamp)


def _folder_stamp(folder: str) -> str:
    """What tells that all in a folder is the same as before: whatever changes, a ctime does.

    Empty where something was changed just now, or cannot be read, of which copying it tells.
    """
    from reflayer.archive.walk import Walk

    try:
        found = [entry.status for entry in Walk(os.fsencode(folder), None, None)]
    except OperationError:
        return ""
    if time.time() - max(status.st_ctime for status in found) < _UNSETTLED:
        return ""
    inodes = sorted((status.st_dev, status.st_ino, status.st_ctime_ns) for status in found)
    return hashlib.sha256(repr(inodes).encode()).hexdigest()


def _stamp(text: str) -> str:
    """What tells that a ``tar:`` file is the same as before, whose digest takes reading all of it.

    Empty for others, and for a file that was changed just now.
    """
    transport, _, path = text.partition(":")
    if transport != "tar" or path == "-":
        return ""
    try:
        status = os.stat(path)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "stat") from error
    if time.time() - status.st_ctime < _UNSETTLED:
        return ""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, (status.st_dev, status.st_ino, status.st_size, *times)))
