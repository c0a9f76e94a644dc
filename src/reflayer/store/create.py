"""A container is made: its image looked up, or pulled where it is not there, cloned, recorded."""

from __future__ import annotations

import os
import time

from reflayer.driver.home import unlink
from reflayer.errors import (
    NO_ROOM,
    LayerError,
    OperationError,
    RegistryError,
    StoreError,
    counted,
    did_you_mean,
    printable,
)
from reflayer.record import record, replace
from reflayer.store import images
from reflayer.store.collect import making, mark_dirty, marked
from reflayer.store.containers import checked_name, container_of, free_name, new_id, refuse_taken
from reflayer.store.images import StoredImage, StoredLayer
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from sqlite3 import Connection
    from typing import TypeVar

    from reflayer.images.content.source import LayerBlobs, Source
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.images.model.reference import Reference
    from reflayer.images.registry import Access
    from reflayer.images.transports import RootFs
    from reflayer.progress import Progress
    from reflayer.store.containers import Container
    from reflayer.store.parts import Parts
    from reflayer.walk.id_map import IdMap

    T = TypeVar("T")


@record
class Wanted:
    """An image as it is asked for: the arguments of ``Store.create``."""

    text: str
    platform: Platform | None
    pull: str
    access: Access | None
    progress: Progress | None
    warn: Callable[[str], None] | None

    def __post_init__(self) -> None:
        if self.pull not in ("missing", "always", "never"):
            raise ValueError(f"pull {self.pull!r} is none of missing, always, never")


@record
class Pulled:
    """An image whose layer is there and recorded, and what is to be recorded of itself."""

    image: StoredImage  # its names are those that move to it
    blobs: frozenset[str]  # the digests of all that it refers to
    called: str  # in a container's record
    stamp: str = ""  # tells whether its source is still the same; empty: unknown


def create(
    parts: Parts, wanted: Wanted, name: str | None, size: int, id_map: IdMap | None = None
) -> Container:
    if name is not None:
        checked_name(name)
    if size:  # before anything is fetched for it
        parts.driver.require_quota()

    def make() -> Container:
        return _create(parts, wanted, name, size, id_map)

    try:
        return _with_room(parts, wanted, make, is_limited=bool(size))
    except LayerError:  # a layer was deleted from outside: by now what lay on it is collected
        return _with_room(parts, wanted, make, is_limited=bool(size))


def _with_room(
    parts: Parts, wanted: Wanted, step: Callable[[], T], *, is_limited: bool = False
) -> T:
    """Do ``step``; where there is no room for it, once more when all spares have gone."""
    try:
        return step()
    except OperationError as error:
        if error.errno not in NO_ROOM:
            raise
        is_read = wanted.text.endswith(":-")  # standard input, as far as it went
        if is_read or not parts.driver.give_up_spares():
            if is_limited:
                raise
            reason = f"{error.reason}: reflayer df tells what takes room, and what rm gives back"
            raise type(error)(error.path, error.operation, reason, error.errno) from error
    return step()


def _create(
    parts: Parts, wanted: Wanted, name: str | None, size: int, id_map: IdMap | None
) -> Container:
    refuse_map(parts, id_map)
    with making(parts) as until:
        if name is not None:
            with parts.database.reading() as db:
                refuse_taken(db, name)
        pulled = pull_image(wanted, parts, until)
        container_id = new_id()
        with marked(parts) as agree:
            layer, progress = pulled.image.layer, wanted.progress
            parts.driver.create(container_id, layer, size=size, id_map=id_map, progress=progress)
            with parts.database.writing() as db:
                container = _record(db, parts, container_id, name, pulled)
            agree()
        return container


def _record(
    db: Connection, parts: Parts, container_id: str, name: str | None, pulled: Pulled
) -> Container:
    if name is None:
        name = free_name(db)
    else:
        refuse_taken(db, name)
    images.add_image(db, pulled.image, pulled.blobs, pulled.stamp)
    image, created = pulled.image.id, time.time()
    db.execute(
        "INSERT INTO containers VALUES (?, ?, ?, ?, ?)",
        (container_id, name, image, pulled.called, created),
    )
    parts.remember_ownership(db)
    return container_of((container_id, name, pulled.called, image, created), parts)


def refuse_map(parts: Parts, id_map: IdMap | None) -> None:
    """Raise StoreError where owners that a container is to have by a map are not kept."""
    if id_map is not None and parts.ownership != "keep":
        raise StoreError(
            "owners are mapped where they are kept, as root or by reflayer unshare, with "
            f"--ownership keep: this store has them as {parts.ownership} says"
        )


def pull(parts: Parts, wanted: Wanted) -> StoredImage:
    return _with_room(parts, wanted, lambda: _pull(parts, wanted))


def _pull(parts: Parts, wanted: Wanted) -> StoredImage:
    with making(parts) as until:
        pulled = pull_image(wanted, parts, until)
        with parts.database.writing() as db:
            images.add_image(db, pulled.image, pulled.blobs, pulled.stamp)
            parts.remember_ownership(db)
            return images.image_with_id(db, pulled.image.id)


def pull_image(wanted: Wanted, parts: Parts, until: ExitStack) -> Pulled:
    """Have an image unpacked; ``until`` gets the locks that are held until it is recorded."""
    with parts.database.reading() as db:
        known, called = _on_record(db, wanted)
        layer = images.layer_there(db, known.layer, parts) if known else None
        blobs = images.blobs_on_record(db, known.id) if known else frozenset()
    if known is not None:
        if layer is not None:
            images.refuse_incomplete(layer, parts)
        elif known.is_folder:
            raise StoreError(
                f"{printable(called)}: its layer is gone: take it in anew by rootfs:DIR"
            )
        else:
            from reflayer.store.unpack import unpack

            unpack(images.read_stored(known, parts), parts, wanted.progress)
        return Pulled(replace(known, names=()), blobs, called)
    pulled = _from_outside(wanted, parts, until)
    if wanted.warn:
        with parts.database.reading() as db:
            is_first = db.execute("SELECT 1 FROM images").fetchone() is None
        if is_first:
            _warn_of_copies(parts, wanted.warn)
    return pulled


def _from_outside(wanted: Wanted, parts: Parts, until: ExitStack) -> Pulled:
    from reflayer.images.transports import RootFs, open_source

    source = open_source(wanted.text, wanted.access, wanted.warn)
    if isinstance(source, RootFs):
        return _from_folder(source, wanted, parts, until)
    try:
        return _from_source(source, wanted, parts)
    except RegistryError as error:
        close = ""
        if wanted.pull == "missing":
            with parts.database.reading() as db:
                close = did_you_mean(wanted.text, images.familiar_names(db))
        if not close:
            raise
        raise RegistryError(f"{error}{close.removesuffix('?')}, which is in the store?") from error


def _on_record(db: Connection, wanted: Wanted) -> tuple[StoredImage | None, str]:
    """The image that need not be asked for anywhere, and what it is called."""
    text = wanted.text
    is_id = images.is_full_id(text) or images.image_with_full_id(db, text) is not None
    reference = None if is_id else _reference(text)
    if wanted.pull == "always":
        if is_id:
            raise StoreError(f"{printable(text)}: an id cannot be pulled: give the image's name")
        return None, ""
    can_be_pulled = not is_id and wanted.pull == "missing"
    if can_be_pulled and reference is None:
        return None, ""  # a place is asked anew each time: its tag may have moved
    look = images.look_for_image if can_be_pulled else images.find_image
    known, name = look(db, text, reference)
    if known is None:
        return None, ""
    if wanted.platform and known.platform not in map(str, wanted.platform.fitting()):
        if can_be_pulled:
            return None, ""
        raise StoreError(f"{printable(text)}: is for {known.platform}, not for {wanted.platform}")
    return known, name or (text if "@" in text else known.id)


def _reference(text: str) -> Reference | None:
    from reflayer.images.transports import registry_reference

    return registry_reference(text)


def _from_source(source: Source, wanted: Wanted, parts: Parts) -> Pulled:
    """Fetched and unpacked, which from a registry go on side by side."""
    from reflayer.store.unpack import unpack

    stamp, told = source.stamp(), _one_at_a_time(wanted.progress)
    known = layer = None
    if stamp:
        if wanted.platform:
            stamp += f":{wanted.platform}"
        with parts.database.reading() as db:
            known = images.image_named(db, source.name, stamp)
            layer = images.layer_there(db, known.layer, parts) if known else None
            blobs = images.blobs_on_record(db, known.id) if known else frozenset()
    if known is not None and layer is not None:
        images.refuse_incomplete(layer, parts)
        _warn_of_platform(known.platform, wanted)
        return Pulled(replace(known, names=(source.name,)), blobs, source.name, stamp)
    mark_dirty(parts)
    if known is not None:
        names: tuple[str, ...] = (source.name,)
        image = images.read_stored(known, parts)
        unpack(image, parts, told)
    else:

        def unpack_it(image: Image, blobs: LayerBlobs) -> None:
            unpack(image, parts, told, blobs)

        image, names = source.fetch(parts.content, wanted.platform, told, unpack_it)
        _warn_of_platform(str(image.platform), wanted)
    return Pulled(images.record_of(image, names), images.blobs_of(image), names[0], stamp)


def _one_at_a_time(progress: Progress | None) -> Progress | None:
    from threading import Lock

    lock = Lock()

    def told(stage: str, done: int, total: int | None) -> None:
        assert progress is not None
        with lock:
            progress(stage, done, total)

    return progress and told


def _warn_of_platform(found: str, wanted: Wanted) -> None:
    """Tell of an image that is taken for want of another, or whose config says what it is."""
    from reflayer.images.model.platform import Platform

    platform = wanted.platform or Platform.of_machine()
    if wanted.warn and found not in map(str, platform.fitting()):
        wanted.warn(f"{printable(wanted.text)}: is for {found}, not for {platform}")


def _warn_of_copies(parts: Parts, warn: Callable[[str], None]) -> None:
    """Tell, with a store's first image, that its file system shares no blocks."""
    found = parts.driver.status()
    if found["Shared Blocks"] == "false":
        warn(
            f"{found['Backing Filesystem']} shares no blocks: each container takes all of its "
            f"image's size; reflayer doctor {printable(parts.root)} tells what would do better"
        )


def _from_folder(source: RootFs, wanted: Wanted, parts: Parts, until: ExitStack) -> Pulled:
    """From a folder, which is cloned at its first use, by one process at a time."""
    from hashlib import sha256  # it brings OpenSSL

    from reflayer.copy import copy_tree
    from reflayer.images.model.platform import Platform

    digest = sha256(os.fsencode(source.name)).hexdigest()
    lock = parts.lock_of(f"rootfs-{digest}")
    until.enter_context(locked(lock))
    stamp = source.stamp()
    if stamp and wanted.pull != "always":
        with parts.database.reading() as db:
            known = images.image_named(db, source.name, stamp)
            layer = images.layer_there(db, known.layer, parts) if known else None
        if known and layer:
            images.refuse_incomplete(layer, parts)
            unlink(lock)  # otherwise a whole collection would follow
            return Pulled(replace(known, names=(source.name,)), frozenset(), source.name, stamp)
    layer_id = new_id()
    with parts.driver.build(layer_id) as folder:
        report = copy_tree(source.path, folder, ownership=parts.ownership, progress=wanted.progress)
    if report.skipped and wanted.warn:
        how = "recorded or left out" if parts.ownership == "record" else "left out"
        wanted.warn(f"{how}: {counted(report.skipped)}")
    with parts.database.writing() as db:
        size = sum(report.bytes.values())
        skipped = report.skipped if parts.ownership != "keep" else {}
        images.add_layer(db, StoredLayer(layer_id, size, skipped))
    image_id, platform = f"sha256:{layer_id}", str(Platform.of_machine())
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    image = StoredImage(image_id, (source.name,), platform, created, layer_id, manifest=None)
    return Pulled(image, frozenset(), source.name, stamp)
