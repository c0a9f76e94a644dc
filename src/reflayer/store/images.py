"""Images: what the database tells of them, and which one a name means."""

from __future__ import annotations

from reflayer.errors import (
    ImageError,
    StoreError,
    UnknownNameError,
    counted,
    did_you_mean,
    failing,
    printable,
)
from reflayer.record import record, replace
from reflayer.store.containers import Container, look_for_container
from reflayer.store.database import HEX, ids_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from sqlite3 import Connection

    from reflayer.images.model.image import Image
    from reflayer.images.model.reference import Reference
    from reflayer.store.parts import Parts

_NONE = "{}"  # nothing was skipped, as JSON
_NO_LAYERS = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing


@record
class StoredImage:
    """One image.

    Attributes:
        id: the digest of its config, ``sha256:...``; of a folder that was taken in, a random one.
        names: what it is called; none where its names have moved to another image.
        platform: ``os/architecture[/variant]``.
        created: when it was built, RFC 3339 as its config says, or None.
        layer: the id of the layer that its containers are cloned from.
        manifest: its manifest's descriptor as JSON; None for a folder that was taken in, until it
            is packed.
        size: bytes of what was unpacked; None where nothing is unpacked.
    """

    id: str
    names: tuple[str, ...]
    platform: str
    created: str | None
    layer: str
    manifest: str | None
    size: int | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder that was taken in, whose layer no blob has been unpacked to."""
        return self.id == f"sha256:{self.layer}"


@record
class StoredLayer:
    """One unpacked chain: a layer of the driver, with those that it lies on."""

    id: str  # the chain id's hexadecimal digits
    size: int  # bytes of what was unpacked, the chain below included
    skipped: Mapping[str, int]  # how many things could not be made, by kind; as of size
    parent: str | None = None  # the layer that it lies on, if it is a difference


def images(db: Connection) -> list[StoredImage]:
    """All images, those with names first, by name."""
    records = [image_with_id(db, row[0]) for row in db.execute("SELECT id FROM images").fetchall()]
    return sorted(records, key=lambda record: (not record.names, record.names, record.id))


def image_with_id(db: Connection, image_id: str) -> StoredImage:
    """The image with this id, which exists."""
    platform, created, layer, manifest, size = db.execute(
        "SELECT platform, created, layer, manifest, size FROM images "
        "LEFT JOIN layers ON layers.id = layer WHERE images.id = ?",
        (image_id,),
    ).fetchone()
    rows = db.execute("SELECT name FROM names WHERE image = ? ORDER BY name", (image_id,))
    names = tuple(row[0] for row in rows)
    return StoredImage(image_id, names, platform, created, layer, manifest, size)


def image_named(db: Connection, name: str, stamp: str | None = None) -> StoredImage | None:
    """The image of exactly this name; with ``stamp``, only if its source had that."""
    row = db.execute("SELECT image, stamp FROM names WHERE name = ?", (name,)).fetchone()
    if row is None or stamp not in (None, row[1]):
        return None
    return image_with_id(db, row[0])


def image_with_full_id(db: Connection, text: str) -> StoredImage | None:
    digits = text.removeprefix("sha256:")
    found = db.execute("SELECT id FROM images WHERE id = 'sha256:' || ?", (digits,)).fetchone()
    return found and image_with_id(db, found[0])


def blobs_on_record(db: Connection, image_id: str) -> frozenset[str]:
    """The digests of all that an image refers to; none for a folder that is not packed."""
    rows = db.execute("SELECT digest FROM blobs WHERE image = ?", (image_id,))
    return frozenset(row[0] for row in rows)


def add_image(db: Connection, record: StoredImage, blobs: frozenset[str], stamp: str = "") -> None:
    """Record an image that refers to ``blobs``, by digest; its ``names`` move to it."""
    # Without blobs it is a folder, which may have been packed meanwhile: what that is stays.
    # Without names it was on record, and is recorded only if it has been removed meanwhile.
    row = db.execute("SELECT manifest, platform FROM images WHERE id = ?", (record.id,)).fetchone()
    if row is None or (record.names and row != (record.manifest or row[0], record.platform)):
        db.execute(
            "INSERT INTO images VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "manifest = coalesce(excluded.manifest, manifest), platform = excluded.platform",
            (record.id, record.manifest, record.platform, record.created, record.layer),
        )
        if blobs:
            _set_blobs(db, record.id, blobs)
    rows = [(name, record.id, stamp) for name in record.names]
    db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", rows)


def add_manifest(db: Connection, image_id: str, packed: Image) -> None:
    """Record what a folder that was taken in is when it is packed."""
    manifest = manifest_text(packed)
    db.execute("UPDATE images SET manifest = ? WHERE id = ?", (manifest, image_id))
    _set_blobs(db, image_id, blobs_of(packed))


def _set_blobs(db: Connection, image_id: str, blobs: frozenset[str]) -> None:
    db.execute("DELETE FROM blobs WHERE image = ?", (image_id,))
    db.executemany("INSERT INTO blobs VALUES (?, ?)", [(image_id, blob) for blob in blobs])


def add_layer(db: Connection, record: StoredLayer) -> None:
    """Record a layer, whose folder is durable."""
    import json

    values = (record.id, record.size, json.dumps(dict(record.skipped)), record.parent)
    db.execute("INSERT OR REPLACE INTO layers VALUES (?, ?, ?, ?)", values)


def layer_there(db: Connection, layer_id: str, parts: Parts) -> StoredLayer | None:
    """The record of a layer whose folder is there, too."""
    found = db.execute("SELECT id, size, skipped, parent FROM layers WHERE id = ?", (layer_id,))
    row = found.fetchone()
    if row is None or not parts.driver.exists(layer_id):
        return None
    skipped: Mapping[str, int] = {}
    if row[2] != _NONE:
        import json

        skipped = json.loads(row[2])
    return StoredLayer(row[0], row[1], skipped, row[3])


def refuse_incomplete(layer: StoredLayer, parts: Parts) -> None:
    """Raise StoreError where ``layer`` lacks what was left out and is now to be kept."""
    if layer.skipped and parts.ownership == "keep":
        raise StoreError(
            f"the image is there without what could not be made ({counted(layer.skipped)}), which "
            "is recorded or left out: use --ownership record or ignore, or remove it first"
        )


# From an image's blobs, which are in the content store, to its record, and back.


def record_of(image: Image, names: tuple[str, ...]) -> StoredImage:
    layer, manifest = layer_of(image), manifest_text(image)
    return StoredImage(image.id, names, str(image.platform), image.created, layer, manifest)


def layer_of(image: Image) -> str:
    """The id of the layer that its containers are cloned from."""
    return chain_of(image)[-1]


def chain_of(image: Image) -> tuple[str, ...]:
    """The ids of its layers, the lowest first; without any it is one that is empty.

    Each is the digits of the layer's chain id.
    """
    return tuple(one.partition(":")[2] for one in image.chain_ids or (_NO_LAYERS,))


def manifest_text(image: Image) -> str:
    import json

    return json.dumps(image.manifest.as_json())


def blobs_of(image: Image) -> frozenset[str]:
    return frozenset(one.digest for one in (image.manifest, image.config, *image.layers))


def read_stored(known: StoredImage, parts: Parts) -> Image:
    """A recorded image that has a manifest, from its blobs."""
    from reflayer.images.content.resolve import find_image as resolve
    from reflayer.images.model.document import Document
    from reflayer.images.model.platform import Platform

    assert known.manifest is not None
    # The config may say nothing of that; the index that led to the image did.
    system, architecture, variant = (*known.platform.split("/", 2), "")[:3]
    platform = Platform(system, architecture, variant)
    manifest = Document.parse(known.manifest.encode(), f"the record of {known.id}").descriptor()
    return resolve(replace(manifest, platform=platform), None, parts.content.open)


def config_of(known: StoredImage, parts: Parts) -> dict[str, object]:
    """A recorded image's config (OCI image-spec, config.md), as it came; a folder's is made."""
    from reflayer.images.model.descriptor import check_digest_is, digest_bytes
    from reflayer.images.model.document import Document

    if known.is_folder:  # packed or not, whose config has other bytes
        from reflayer.images.build.manifest import config_of as minimal_config
        from reflayer.images.model.platform import Platform

        config = minimal_config(Platform.parse(known.platform))
    else:
        with parts.content.open(known.id) as blob, failing(known.id, "read"):
            config = blob.read()
        check_digest_is(digest_bytes(config, known.id), known.id)
    return Document.parse(config, f"the config of image {known.id[:19]}").fields


# Which image a user means.


def is_full_id(text: str) -> bool:
    digits = text.removeprefix("sha256:")
    return len(digits) == 64 and HEX.issuperset(digits)


def find_image(
    db: Connection, text: str, reference: Reference | None = None
) -> tuple[StoredImage, str | None]:
    """The image that ``text`` means, and which of its names that is; None where it is an id.

    A name is one that the store has, one that Docker reads as such, or where an image came from.
    An id may lack its end. ``NAME@DIGEST`` is what was pulled as such, or the image whose manifest
    has the digest. ``reference`` is what ``text`` has been read as, if it has.
    """
    found, name = look_for_image(db, text, reference)
    if found is None:
        lists = ": reflayer images lists them, reflayer pull fetches one"
        close = did_you_mean(text, familiar_names(db)) or lists
        if db.execute("SELECT 1 FROM containers WHERE name = ?", (text,)).fetchone():
            close = ", but a container: reflayer commit makes one of it, reflayer rm removes it"
        raise UnknownNameError(f"{printable(text)}: no such image in the store{close}")
    return found, name


def find(parts: Parts, text: str) -> tuple[StoredImage, str | None]:
    """As ``find_image``, in a transaction of its own."""
    with parts.database.reading() as db:
        return find_image(db, text)


def look_for_image(
    db: Connection, text: str, reference: Reference | None = None
) -> tuple[StoredImage | None, str | None]:
    """As ``find_image``; None where there is none."""
    if (found := image_named(db, text)) is not None:
        return found, text
    if (found := image_with_full_id(db, text)) is not None:
        return found, None
    if not is_full_id(text):
        from reflayer.images.transports import open_source, registry_reference

        reference = reference or registry_reference(text)
        name = str(reference or open_source(text).name)
        if (found := image_named(db, name)) is not None:
            return found, name
        if reference and reference.digest:
            return _image_with_manifest(db, reference.digest), None
    ids = ids_with(db, "images", f"sha256:{text.removeprefix('sha256:')}")
    if len(ids) > 1:
        raise StoreError(f"{text}: the ids of {len(ids)} images begin so: give more digits")
    return (image_with_id(db, ids[0]) if ids else None), None


def _image_with_manifest(db: Connection, digest: str) -> StoredImage | None:
    import json

    rows = db.execute("SELECT id, manifest FROM images WHERE manifest NOTNULL").fetchall()
    ids = [image for image, manifest in rows if json.loads(manifest)["digest"] == digest]
    return image_with_id(db, ids[0]) if ids else None


def find_either(db: Connection, text: str, parts: Parts) -> list[Container | StoredImage]:
    """The container and the image that ``text`` means, the container first."""
    container = look_for_container(db, text, parts)
    try:
        found, _ = look_for_image(db, text)
    except ImageError:  # no name of an image
        found = None
    either = [one for one in (container, found) if one is not None]
    if not either:
        names = [row[0] for row in db.execute("SELECT name FROM containers")]
        lists = ": reflayer ps and reflayer images list them"
        close = did_you_mean(text, names + familiar_names(db)) or lists
        raise UnknownNameError(f"{printable(text)}: no such container or image{close}")
    return either


def familiar_names(db: Connection) -> list[str]:
    """The names of all images, as Docker shows them."""
    from reflayer.images.model.reference import familiar

    return [familiar(row[0]) for row in db.execute("SELECT name FROM names")]
