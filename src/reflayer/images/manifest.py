"""Manifests and indexes: what they list, and that they are what they claim to be.

OCI image-spec, manifest.md and image-index.md; Docker's "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

from dataclasses import dataclass

from reflayer.errors import ImageError, printable
from reflayer.images.descriptor import Descriptor
from reflayer.images.document import Document
from reflayer.images.media_types import CONFIGS, FOREIGN, INDEXES, LAYERS, MANIFESTS, SCHEMA_1

LARGEST_MANIFEST = 4 << 20
"""Bytes; registries take no larger ones (OCI distribution-spec, "Pushing Manifests")."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its config and its layers, the lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Several images, mostly one for each platform."""

    manifests: tuple[Descriptor, ...]


def parse_manifest(data: bytes, descriptor: Descriptor) -> Manifest | Index:
    """Read what ``descriptor``, which ``data`` has been checked against, points to.

    Raises:
        ImageError: it is malformed, or no image that can be unpacked.
    """
    what = f"the manifest {descriptor.digest}"
    document = Document.parse(data, what)
    if document.fields.get("schemaVersion") == 1 or descriptor.media_type.startswith(SCHEMA_1):
        raise ImageError(
            f"{what} is of Docker's schema 1, which is too old: pull and push the image again with "
            "a current tool"
        )
    media_type = document.string("mediaType")
    if media_type and media_type != descriptor.media_type:
        raise ImageError(
            f"{what} says that it is {printable(media_type)}, but "
            f"{printable(descriptor.media_type)} is expected"
        )
    if descriptor.media_type in INDEXES:
        return _index(document)
    if descriptor.media_type in MANIFESTS:
        return _manifest(document)
    if not descriptor.media_type:
        raise ImageError(f"{what} does not say of what media type it is")
    raise ImageError(f"{what} has the unknown media type {printable(descriptor.media_type)}")


def _index(document: Document) -> Index:
    _refuse_members(document, "config", "layers")
    if document.fields.get("manifests") is None:
        raise ImageError(f"{document.what} lists no 'manifests'")
    return Index(tuple(entry.descriptor() for entry in document.children("manifests")))


def _manifest(document: Document) -> Manifest:
    _refuse_members(document, "manifests", "fsLayers")
    config = document.child("config")
    if config is None:
        raise ImageError(f"{document.what} has no 'config'")
    config_descriptor = config.descriptor()
    if config_descriptor.media_type not in CONFIGS:
        kind = document.string("artifactType") or config_descriptor.media_type
        raise ImageError(
            f"{document.what} is not of a container image but of an artefact: {printable(kind)}"
        )
    layers = tuple(entry.descriptor() for entry in document.children("layers"))
    for layer in layers:
        _check_layer(layer, document.what)
    return Manifest(config_descriptor, layers)


def _check_layer(layer: Descriptor, what: str) -> None:
    kind = layer.media_type
    if any(mark in kind for mark in FOREIGN):
        raise ImageError(
            f"{what} has the layer {layer.digest}, which is foreign: such layers "
            "(of Windows, mostly) are not in the image"
        )
    if kind not in LAYERS:
        reason = "is encrypted" if kind.endswith("+encrypted") else "is of an unknown media type"
        raise ImageError(f"{what} has the layer {layer.digest}, which {reason}: {printable(kind)}")


def _refuse_members(document: Document, *keys: str) -> None:
    # A document that can be read as two things is read as another by somebody else.
    for key in keys:
        if document.fields.get(key) is not None:
            raise ImageError(f"{document.what} is of two kinds at once: it has {key!r}, too")
