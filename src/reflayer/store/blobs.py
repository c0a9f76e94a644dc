"""Between an image's blobs, which are in the content store, and its record."""

from __future__ import annotations

import json
from dataclasses import replace

from reflayer.store.records import StoredImage, descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images import Image
    from reflayer.store.parts import Parts

_NO_LAYERS = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of nothing


def read_stored(known: StoredImage, parts: Parts) -> Image:
    """A recorded image that has a manifest, from its blobs.

    Raises:
        ImageError: a blob is missing or damaged.
        OperationError: one cannot be read.
    """
    from reflayer.images import Platform
    from reflayer.images.content.resolve import find_image

    assert known.manifest is not None
    # The config may say nothing of that; the index that led to the image did.
    system, architecture, variant = (*known.platform.split("/", 2), "")[:3]
    platform = Platform(system, architecture, variant)
    top = replace(descriptor(known.manifest), platform=platform)
    return find_image(top, None, parts.content.open)


def config_of(known: StoredImage, parts: Parts) -> dict[str, object]:
    """A recorded image's config (OCI image-spec, config.md), as it came; that of a folder is made.

    Raises:
        ImageError: a blob is missing or damaged.
        OperationError: one cannot be read.
    """
    from reflayer.images import Platform
    from reflayer.images.build.manifest import config_of as minimal_config
    from reflayer.images.content.resolve import read_document
    from reflayer.images.model.document import Document
    from reflayer.images.model.image import LARGEST_CONFIG

    if known.manifest is None:
        config = minimal_config(Platform.parse(known.platform))
    else:
        config = read_document(read_stored(known, parts).config, parts.content.open, LARGEST_CONFIG)
    return Document.parse(config, f"the config of image {known.id[:19]}").fields


def record_of(image: Image, names: tuple[str, ...]) -> StoredImage:
    """The record of an image whose ``names`` are to move to it."""
    return StoredImage(
        id=image.id,
        names=names,
        platform=str(image.platform),
        created=image.created,
        layer=layer_of(image),
        manifest=manifest_text(image),
        size=None,
    )


def layer_of(image: Image) -> str:
    """The id of the layer that the image's whole chain becomes."""
    return layer_id(image.chain_ids[-1] if image.chain_ids else _NO_LAYERS)


def layer_id(chain_id: str) -> str:
    """The id of the layer that the chain of layers with this chain id becomes."""
    return chain_id.partition(":")[2]


def manifest_text(image: Image) -> str:
    """The descriptor of an image's manifest as a record has it."""
    return json.dumps(image.manifest.as_json())


def blobs_of(image: Image) -> frozenset[str]:
    """The digests of all that an image refers to, and its own."""
    descriptors = (image.manifest, image.config, *image.layers)
    return frozenset(descriptor.digest for descriptor in descriptors)
