"""An image: its config and layers, by digest (OCI image-spec, config.md)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from reflayer.errors import ImageError, brief
from reflayer.images.model.descriptor import Descriptor, check_digest, digest_bytes
from reflayer.images.model.document import Document
from reflayer.images.model.manifest import Manifest, NoImageError
from reflayer.images.model.platform import Platform

LARGEST_CONFIG = 8 << 20
"""Bytes."""
_MOST_LAYERS = 500  # that overlayfs takes, and so anybody; Docker makes 125 at most


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
    platform: Platform | None
    created: str | None


def parse_config(data: bytes, what: str) -> Config:
    """Read a config; ``what`` it is, for messages.

    Raises:
        ImageError: it is malformed.
        NoImageError: it is no container image's.
    """
    document = Document.parse(data, what)
    rootfs = document.child("rootfs")
    if rootfs is None or rootfs.string("type") not in ("", "layers"):
        reason = f"{what} has no 'rootfs' of layers: it is no container image's"
        raise NoImageError(reason, "unknown")
    diff_ids = tuple(rootfs.strings("diff_ids"))
    for diff_id in diff_ids:
        check_digest(diff_id)
    return Config(diff_ids, document.platform(), document.string("created") or None)


def image_of(
    manifest: Descriptor, contents: Manifest, config: Config, said: Platform | None
) -> Image:
    """The image of a manifest and its config.

    Args:
        manifest: it.
        contents: what is in it.
        config: its config.
        said: what it runs on where its config does not say; None for this machine.
    """
    return Image(
        # Bare: the same image is equal wherever it comes from.
        manifest=Descriptor(contents.media_type, manifest.digest, manifest.size),
        config=contents.config,
        layers=contents.layers,
        diff_ids=config.diff_ids,
        platform=config.platform or said or Platform.of_machine(),
        created=config.created,
    )


def check_layers(count: int, config: Config, what: str) -> None:
    """Raise an ImageError where ``what`` has another number of layers than its config, or many."""
    check_count(count, what)
    if count != len(config.diff_ids):
        raise ImageError(f"{what} has {count} layers, but its config has {len(config.diff_ids)}")


def check_count(count: int, what: str) -> None:
    """Raise an ImageError where ``what`` has more layers than anybody makes or unpacks."""
    if count > _MOST_LAYERS:
        raise ImageError(
            f"{what} has {count:,} layers: no program unpacks more than {_MOST_LAYERS}"
        )


def check_platform(found: Platform | None, wanted: Platform | None, what: str) -> None:
    """Raise an ImageError where an image for ``found`` does not run on what is ``wanted``."""
    if found is not None and wanted is not None and found not in wanted.fitting():
        raise ImageError(f"{what} has no image for {wanted}, only for {brief(str(found))}")


def _chain(below: str, diff_id: str) -> str:
    return digest_bytes(f"{below} {diff_id}".encode())
