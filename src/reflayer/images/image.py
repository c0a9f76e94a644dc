"""An image: its config and layers, by digest (OCI image-spec, config.md)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from reflayer.errors import ImageError
from reflayer.images.descriptor import Descriptor
from reflayer.images.digest import check_digest, digest_bytes
from reflayer.images.document import Document
from reflayer.images.manifest import Manifest
from reflayer.images.platform import Platform

LARGEST_CONFIG = 8 << 20
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose blobs are in a content store.

    Attributes:
        manifest: its manifest.
        config: its config, whose digest is the image's id.
        layers: its layers' blobs, the lowest first.
        diff_ids: digests of the layers' plain tars, in the same order.
        platform: what it runs on.
        created: when it was made (RFC 3339), where that is said.
    """

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    platform: Platform
    created: str | None

    @property
    def id(self) -> str:
        """The digest of the config."""
        return self.config.digest

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """What tells each layer with all below it (OCI image-spec, config.md: Layer ChainID)."""
        return tuple(accumulate(self.diff_ids, _chain))


@dataclass(frozen=True, slots=True)
class Config:
    """What an image's config says, as far as it matters here: see ``Image``."""

    diff_ids: tuple[str, ...]
    platform: Platform
    created: str | None


def parse_config(data: bytes, what: str) -> Config:
    """Read a config; ``what`` it is, for messages.

    Raises:
        ImageError: it is malformed, or no container image's.
    """
    document = Document.parse(data, what)
    rootfs = document.child("rootfs")
    if rootfs is None or rootfs.string("type") != "layers":
        raise ImageError(f"{what} has no 'rootfs' of layers: it is no container image's")
    diff_ids = tuple(rootfs.strings("diff_ids"))
    for diff_id in diff_ids:
        check_digest(diff_id)
    platform = document.platform()
    if platform is None:
        raise ImageError(f"{what} does not say for which architecture it is")
    return Config(diff_ids, platform, document.string("created") or None)


def image_of(manifest: Descriptor, contents: Manifest, data: bytes) -> Image:
    """The image of a manifest and its config.

    Raises:
        ImageError: the config is malformed, or not of these layers.
    """
    config = parse_config(data, f"the config {contents.config.digest}")
    check_layers(len(contents.layers), config, f"the manifest {manifest.digest}")
    return Image(
        # Bare: the same image is equal wherever it comes from.
        manifest=Descriptor(manifest.media_type, manifest.digest, manifest.size),
        config=contents.config,
        layers=contents.layers,
        diff_ids=config.diff_ids,
        platform=config.platform,
        created=config.created,
    )


def check_layers(count: int, config: Config, what: str) -> None:
    """Raise an ImageError where ``what`` has another number of layers than its config."""
    if count != len(config.diff_ids):
        raise ImageError(f"{what} has {count} layers, but its config has {len(config.diff_ids)}")


def check_platform(found: Platform, wanted: Platform | None, what: str) -> None:
    """Raise an ImageError where an image for ``found`` does not run on what is ``wanted``."""
    if wanted is not None and found not in wanted.fitting():
        raise ImageError(f"{what} has no image for {wanted}, only for {found}")


def _chain(below: str, diff_id: str) -> str:
    return digest_bytes(f"{below} {diff_id}".encode())
