"""Manifests and configs for images that come without; the same layers always make the same ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from reflayer.images.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from reflayer.images.resolve import find_image

if TYPE_CHECKING:
    from reflayer.images.content import Content
    from reflayer.images.descriptor import Descriptor
    from reflayer.images.image import Image
    from reflayer.images.platform import Platform

LAYER_TYPES = {"none": OCI_LAYER, "gzip": f"{OCI_LAYER}+gzip", "zstd": f"{OCI_LAYER}+zstd"}
"""The media type of a layer by its compression; OCI knows no others."""


def config_of(platform: Platform, *diff_ids: str) -> bytes:
    """A config with nothing in it but what has to be there (OCI image-spec, config.md)."""
    variant = {"variant": platform.variant} if platform.variant else {}
    return _json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            **variant,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )


def add_image(content: Content, config: bytes, layers: tuple[Descriptor, ...]) -> Image:
    """Add the config and a manifest for the layers, which are in ``content``.

    Raises:
        ImageError: the config is malformed or not of these layers.
        OperationError: they could not be written.
    """
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": content.add_bytes(config, OCI_CONFIG).as_json(),
        "layers": [layer.as_json() for layer in layers],
    }
    image = find_image(content.add_bytes(_json(manifest), OCI_MANIFEST), None, content.open)
    content.sync()
    return image


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
