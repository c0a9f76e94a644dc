"""The same image with another manifest: of OCI's media types, or of layers that are compressed.

How a layer is compressed its first bytes tell; what its media type says may be wrong.
"""

from __future__ import annotations

from dataclasses import replace

from reflayer.archive.compression import Blob, PlainReader, compression_of
from reflayer.archive.read_ahead import ReadAhead
from reflayer.archive.tar_header import BLOCK
from reflayer.images.digest import Unhashed, check_digest_is
from reflayer.images.document import Document
from reflayer.images.made import LAYER_TYPES, add_manifest, layer_type
from reflayer.images.manifest import LARGEST_MANIFEST
from reflayer.images.media_types import OCI_CONFIG, OCI_MANIFEST
from reflayer.images.new_layer import add_layer
from reflayer.images.resolve import read_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor
    from reflayer.images.image import Image
    from reflayer.images.resolve import Open
    from reflayer.progress import Progress


def with_compressed_layers(
    content: Content, image: Image, compression: str, progress: Progress | None
) -> Image:
    """The image with layers that every program reads: by gzip or zstd, or plain.

    Those by gzip and zstd stay as they are.

    Args:
        content: where its blobs are, and the new ones come to.
        image: it.
        compression: of the others: ``gzip``, ``zstd`` or ``none``.
        progress: is told of stage ``pack``, in bytes of each plain layer.

    Raises:
        ImageError: a blob is missing or damaged.
        OperationError: one could not be read or written.
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
    return _remade(content, image, oci_layers(content, layers))


def with_oci_types(content: Content, image: Image) -> Image:
    """The image with a manifest of OCI's media types; its config and layers are the same bytes.

    Raises:
        ImageError: a blob is missing or damaged.
        OperationError: one could not be read or written.
    """
    layer_types = {layer.media_type for layer in image.layers}
    types = image.manifest.media_type, image.config.media_type
    if types == (OCI_MANIFEST, OCI_CONFIG) and layer_types <= set(LAYER_TYPES.values()):
        return image
    return _remade(content, image, oci_layers(content, image.layers))


def oci_layers(content: Content, layers: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """The same layers with the media types that OCI has for what they are.

    Raises:
        ImageError: one is missing.
        OperationError: one could not be read.
    """
    return tuple(
        replace(layer, media_type=layer_type(_compression(content, layer))) for layer in layers
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


def _compression(content: Content, layer: Descriptor) -> str:
    with content.open(layer.digest) as file:
        return compression_of(file.read(BLOCK))


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
    return add_manifest(content, image.config, layers, fields, image.platform)
