"""What the database tells of images and layers, and how it is asked and told."""

from __future__ import annotations

import json
from dataclasses import dataclass

from reflayer.errors import StoreError
from reflayer.store.ids import ids_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from sqlite3 import Connection

    from reflayer.images import Descriptor


@dataclass(frozen=True, slots=True)
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
    size: int | None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder that was taken in, whose layer no blob has been unpacked to."""
        return self.id == f"sha256:{self.layer}"


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One unpacked chain: a folder of the driver.

    Attributes:
        id: the folder's name, the chain id's hexadecimal digits.
        size: bytes of what was unpacked, the chain below included.
        skipped: how many things ``ownership="ignore"`` left out, by kind.
    """

    id: str
    size: int
    skipped: Mapping[str, int]


def images(db: Connection) -> list[StoredImage]:
    """All images, those with names first, by name."""
    records = [image(db, row[0]) for row in db.execute("SELECT id FROM images").fetchall()]
    return sorted(records, key=lambda record: (not record.names, record.names, record.id))


def image(db: Connection, image_id: str) -> StoredImage:
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
    """The image of exactly this name; with ``stamp``, only if its source had that stamp."""
    row = db.execute("SELECT image, stamp FROM names WHERE name = ?", (name,)).fetchone()
    if row is None or stamp not in (None, row[1]):
        return None
    return image(db, row[0])


def image_with_full_id(db: Connection, text: str) -> StoredImage | None:
    """The image whose id is ``text``, with ``sha256:`` before it or not."""
    digits = text.removeprefix("sha256:")
    found = db.execute("SELECT id FROM images WHERE id = 'sha256:' || ?", (digits,)).fetchone()
    return found and image(db, found[0])


def image_with_id(db: Connection, text: str) -> StoredImage | None:
    """The image whose id begins with ``text``, with ``sha256:`` before it or not.

    Raises:
        StoreError: there is more than one.
    """
    ids = ids_with(db, "images", f"sha256:{text.removeprefix('sha256:')}")
    if len(ids) > 1:
        raise StoreError(f"{text}: the ids of {len(ids)} images begin so: give more digits")
    return image(db, ids[0]) if ids else None


def image_with_manifest(db: Connection, digest: str) -> StoredImage | None:
    """The image whose manifest has this digest."""
    rows = db.execute("SELECT id, manifest FROM images WHERE manifest NOTNULL").fetchall()
    return next((image(db, row[0]) for row in rows if json.loads(row[1])["digest"] == digest), None)


def descriptor(manifest: str) -> Descriptor:
    """The descriptor of a manifest, as it is recorded."""
    from reflayer.images import Descriptor

    fields = json.loads(manifest)
    return Descriptor(fields["mediaType"], fields["digest"], fields["size"])


def layer(db: Connection, layer_id: str) -> StoredLayer | None:
    """The layer with this id, if it is recorded."""
    row = db.execute("SELECT id, size, skipped FROM layers WHERE id = ?", (layer_id,)).fetchone()
    return row and StoredLayer(row[0], row[1], json.loads(row[2]))


def add_layer(db: Connection, record: StoredLayer) -> None:
    """Record a layer, whose folder is durable."""
    db.execute(
        "INSERT OR REPLACE INTO layers VALUES (?, ?, ?)",
        (record.id, record.size, json.dumps(dict(record.skipped))),
    )


def add_image(db: Connection, record: StoredImage, blobs: frozenset[str], stamp: str) -> None:
    """Record an image that refers to ``blobs``, by digest; its ``names`` move to it.

    Without ``blobs`` it is a folder, which may have been packed meanwhile: what that is stays.
    """
    db.execute(
        "INSERT INTO images VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "manifest = coalesce(excluded.manifest, manifest), platform = excluded.platform",
        (record.id, record.manifest, record.platform, record.created, record.layer),
    )
    if blobs:
        _set_blobs(db, record.id, blobs)
    rows = [(name, record.id, stamp) for name in record.names]
    db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", rows)


def add_manifest(db: Connection, image_id: str, manifest: str, blobs: frozenset[str]) -> None:
    """Record what a folder that was taken in is when it is packed."""
    db.execute("UPDATE images SET manifest = ? WHERE id = ?", (manifest, image_id))
    _set_blobs(db, image_id, blobs)


def _set_blobs(db: Connection, image_id: str, blobs: frozenset[str]) -> None:
    db.execute("DELETE FROM blobs WHERE image = ?", (image_id,))
    db.executemany("INSERT INTO blobs VALUES (?, ?)", [(image_id, blob) for blob in blobs])
