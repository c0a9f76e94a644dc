"""Manifests and configs for images that come without; the same layers always make the same ones."""

from __future__ import annotations

import json
from dataclasses import replace

from reflayer.images.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from reflayer.images.resolve import find_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor
    from reflayer.images.image import Image
    from reflayer.images.platform import Platform

LAYER_TYPES = {"none": OCI_LAYER, "gzip": f"{OCI_LAYER}+gzip", "zstd": f"{OCI_LAYER}+zstd"}
"""The media type of a layer by its compression; OCI knows no others."""


def layer_type(compression: str) -> str:
    """The media type of any layer; by OCI's pattern of one that OCI knows nothing of."""
    return LAYER_TYPES.get(compression, f"{OCI_LAYER}+{compression}")


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
    content: Content,
    config: bytes,
    layers: tuple[Descriptor, ...],
    said: Platform | None = None,
) -> Image:
    """Add the config and a manifest for the layers, which are in ``content``.

    Where the config does not say what the image runs on, that is ``said``, else this machine.

    Raises:
        ImageError: the config is malformed or not of these layers.
        OperationError: they could not be written.
    """
    return add_manifest(content, content.add_bytes(config, OCI_CONFIG), layers, {}, said)


def add_manifest(
    content: Content,
    config: Descriptor,
    layers: tuple[Descriptor, ...],
    annotations: Mapping[str, object],
    said: Platform | None,
) -> Image:
    """Add a manifest for a config and layers that are in ``content``.

    Raises:
        ImageError: the config is malformed or not of these layers.
        OperationError: it could not be written.
    """
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {**config.as_json(), "mediaType": OCI_CONFIG},
        "layers": [_with_annotations(layer) for layer in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    top = replace(content.add_bytes(to_json(manifest), OCI_MANIFEST), platform=said)
    image = find_image(top, None, content.open)
    content.sync()
    return image


def to_json(value: object) -> bytes:
    """A JSON document as we write all of them.

    Raises:
        UnicodeEncodeError: it has half a character in it.
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _with_annotations(layer: Descriptor) -> dict[str, object]:
    said = {"annotations": dict(layer.annotations)} if layer.annotations else {}
    return {**layer.as_json(), **said}
