"""Manifests and configs that are made; of the same layers always the same ones.

An image that came without them gets them; another, with OCI's media types or with compressed
layers, is the same image by its config with another manifest. How a layer is compressed its first
bytes tell; what its media type says may be wrong.
"""

from __future__ import annotations

import json

from reflayer.archive.compression import compression_of
from reflayer.archive.tar_header import BLOCK
from reflayer.images.build.layer import add_layer, plain_tar
from reflayer.images.content.resolve import find_image, read_document
from reflayer.images.model.descriptor import (
    LAYER_TYPES,
    OCI_CONFIG,
    OCI_MANIFEST,
    check_digest_is,
    layer_type,
)
from reflayer.images.model.document import Document
from reflayer.images.model.image import LARGEST_MANIFEST
from reflayer.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress


def config_of(platform: Platform, *diff_ids: str) -> bytes:
    """A config with nothing in it but what has to be there (OCI image-spec, config.md)."""
    variant = {"variant": platform.variant} if platform.variant else {}
    return to_json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            **variant,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )


def add_image(
    content: BlobStore, config: bytes, layers: tuple[Descriptor, ...], said: Platform | None = None
) -> Image:
    """Add the config and a manifest for the layers, which are in ``content``.

    Where the config does not say what the image runs on, that is ``said``, else this machine.
    """
    return add_manifest(content, content.add_bytes(config, OCI_CONFIG), layers, {}, said)


def add_manifest(
    content: BlobStore,
    config: Descriptor,
    layers: tuple[Descriptor, ...],
    annotations: Mapping[str, object],
    said: Platform | None,
) -> Image:
    """Add a manifest for a config and layers that are in ``content``."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {**config.as_json(), "mediaType": OCI_CONFIG},
        "layers": [
            {**one.as_json(), **({"annotations": {**one.annotations}} if one.annotations else {})}
            for one in layers
        ],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    top = replace(content.add_bytes(to_json(manifest), OCI_MANIFEST), platform=said)
    image = find_image(top, None, content.open)
    content.sync()
    return image


def with_compressed_layers(
    content: BlobStore, image: Image, compression: str, progress: Progress | None
) -> Image:
    """The image with layers that every program reads: by gzip or zstd, or plain.

    Those by gzip and zstd stay as they are; the others get this ``compression``, one of these or
    ``none``. ``progress`` is told of stage ``pack``, in bytes of each plain layer.
    """
    found = [_compression(content, layer) for layer in image.layers]
    if {"gzip", "zstd", compression}.issuperset(found):
        return image
    layers = tuple(
        layer
        if kind in ("gzip", "zstd", compression)
        else _compressed(content, layer, diff_id, compression, progress)
        for layer, diff_id, kind in zip(image.layers, image.diff_ids, found, strict=True)
    )
    return _with_layers(content, image, oci_layers(content, layers))


def with_oci_types(content: BlobStore, image: Image) -> Image:
    """The image with a manifest of OCI's media types; its config and layers are the same bytes."""
    layer_types = {layer.media_type for layer in image.layers}
    types = image.manifest.media_type, image.config.media_type
    if types == (OCI_MANIFEST, OCI_CONFIG) and layer_types <= set(LAYER_TYPES.values()):
        return image
    return _with_layers(content, image, oci_layers(content, image.layers))


def oci_layers(content: BlobStore, layers: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """The same layers with the media types that OCI has for what they are."""
    return tuple(
        replace(layer, media_type=layer_type(_compression(content, layer))) for layer in layers
    )


def _compression(content: BlobStore, layer: Descriptor) -> str:
    with content.open(layer.digest) as file:
        return compression_of(file.read(BLOCK))


def _compressed(
    content: BlobStore, layer: Descriptor, diff_id: str, compression: str, progress: Progress | None
) -> Descriptor:
    with content.open(layer.digest) as file, plain_tar(file, layer.size) as chunks:
        added = add_layer(content, chunks, compression, progress)
    if diff_id.startswith("sha256:"):
        check_digest_is(added.diff_id, diff_id)
    return replace(added.layer, annotations=layer.annotations)


def _with_layers(content: BlobStore, image: Image, layers: tuple[Descriptor, ...]) -> Image:
    data = read_document(image.manifest, content.open, LARGEST_MANIFEST)
    annotations = Document.parse(data, f"the manifest {image.manifest.digest}").child("annotations")
    fields = annotations.fields if annotations else {}
    return add_manifest(content, image.config, layers, fields, image.platform)


def to_json(value: object) -> bytes:
    """A JSON document as we write all of them."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
