"""The same image with another manifest: of OCI's media types, or of layers that are compressed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reflayer.archive.blob import Blob
from reflayer.archive.compression import PlainReader
from reflayer.archive.read_ahead import ReadAhead
from reflayer.images.digest import Unhashed, check_digest_is
from reflayer.images.document import Document
from reflayer.images.made import LAYER_TYPES, add_manifest
from reflayer.images.manifest import LARGEST_MANIFEST
from reflayer.images.media_types import OCI_LAYER, OCI_MANIFEST
from reflayer.images.new_layer import add_layer
from reflayer.images.resolve import read_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor
    from reflayer.images.fetch import Progress
    from reflayer.images.image import Image
    from reflayer.images.resolve import Open


def with_compressed_layers(
    content: Content, image: Image, compression: str, progress: Progress | None
) -> Image:
    """The image with its plain layers compressed; those that are so already stay as they are.

    Args:
        content: where its blobs are, and the new ones come to.
        image: it.
        compression: ``gzip`` or ``zstd``; ``none`` leaves the image as it is.
        progress: is told of stage ``pack``, in bytes of each plain layer.

    Raises:
        ImageError: a blob is missing or damaged.
        OperationError: one could not be read or written.
    """
    if compression == "none" or not any(map(_is_plain, image.layers)):
        return image
    layers = tuple(
        _compressed(content, layer, diff_id, compression, progress) if _is_plain(layer) else layer
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
    )
    return _remade(content, image, oci_layers(layers))


def with_oci_types(content: Content, image: Image) -> Image:
    """The image with a manifest of OCI's; its config and layers are the same bytes.

    Raises:
        ImageError: a blob is missing or damaged.
        OperationError: one could not be read or written.
    """
    if image.manifest.media_type == OCI_MANIFEST:
        return image
    return _remade(content, image, oci_layers(image.layers))


def oci_layers(layers: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """The same layers with the media types that OCI has for Docker's."""
    return tuple(
        replace(layer, media_type=LAYER_TYPES[_compression(layer)])
        if not layer.media_type.startswith(OCI_LAYER)
        else layer
        for layer in layers
    )


def plain_chunks(open_blob: Open, layer: Descriptor) -> Iterator[memoryview]:
    """The plain tar of a layer's blob, which ``open_blob`` opens by its digest.

    Raises:
        ArchiveError: it is damaged.
        ImageError: it is missing.
        OperationError: it could not be read.
    """
    with open_blob(layer.digest) as file:
        reader = PlainReader(Blob(file, Unhashed(), layer.size))
        with ReadAhead(reader, None) as ahead:
            yield from ahead


def _compression(layer: Descriptor) -> str:
    for compression in ("gzip", "zstd"):
        if layer.media_type.endswith((f"+{compression}", f".{compression}")):
            return compression
    return "none"


def _is_plain(layer: Descriptor) -> bool:
    return _compression(layer) == "none"


def _compressed(
    content: Content,
    layer: Descriptor,
    diff_id: str,
    compression: str,
    progress: Progress | None,
) -> Descriptor:
    added = add_layer(content, plain_chunks(content.open, layer), compression, progress)
    if diff_id.startswith("sha256:"):
        check_digest_is(added.diff_id, diff_id)
    return replace(added.layer, annotations=layer.annotations)


def _remade(content: Content, image: Image, layers: tuple[Descriptor, ...]) -> Image:
    data = read_document(image.manifest, content.open, LARGEST_MANIFEST)
    annotations = Document.parse(data, f"the manifest {image.manifest.digest}").child("annotations")
    fields = annotations.fields if annotations else {}
    return add_manifest(content, image.config, layers, fields)
