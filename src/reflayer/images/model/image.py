"""An image: its manifest, config and layers, by digest.

OCI image-spec, manifest.md, image-index.md and config.md; Docker's "Image Manifest V 2, Schema 2".
What a document is its members tell, not its media type.
"""

from __future__ import annotations

from itertools import accumulate

from reflayer.errors import ImageError, brief
from reflayer.images.model.descriptor import (
    INDEXES,
    MANIFESTS,
    OCI_MANIFEST,
    SAYS_NOTHING,
    SCHEMA_1,
    Descriptor,
    check_digest,
    digest_bytes,
)
from reflayer.images.model.document import Document
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.model.platform import Platform

LARGEST_MANIFEST = 4 << 20
"""Bytes; registries take no larger ones (OCI distribution-spec, "Pushing Manifests")."""

LARGEST_CONFIG = 8 << 20
"""Bytes."""

_MOST_LAYERS = 500  # that overlayfs takes, and so anybody; Docker makes 125 at most


class NoImageError(ImageError):
    """What is there is no container image but of another ``kind``, and right as such perhaps."""

    def __init__(self, message: str, kind: str = "") -> None:  # without it by pickle alone
        super().__init__(message)
        self.kind = kind


@record
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
        return self.config.digest

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """What tells each layer with all below it (OCI image-spec, config.md: Layer ChainID)."""
        return tuple(
            accumulate(self.diff_ids, lambda below, one: digest_bytes(f"{below} {one}".encode()))
        )


@record
class Manifest:
    """One image: what should be its config, and its layers; ``kind`` says what else it may be."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    kind: str


@record
class Index:
    """Several images, mostly one for each platform."""

    manifests: tuple[Descriptor, ...]


@record
class Config:
    """What an image's config says, as far as it matters here: see ``Image``."""

    diff_ids: tuple[str, ...]
    platform: Platform | None
    created: str | None


def parse_manifest(data: bytes, descriptor: Descriptor) -> Manifest | Index:
    """Read what ``descriptor``, which ``data`` has been checked against, points to.

    What is something else, a signature for instance, is a NoImageError.
    """
    what = f"the manifest {descriptor.digest}"
    expected = descriptor.media_type
    try:
        document = Document.parse(data, what)
    except ImageError as error:
        if expected in SAYS_NOTHING:
            raise NoImageError(str(error), expected or "unknown") from error
        raise
    fields, said = document.fields, document.media_type()
    if (
        fields.get("schemaVersion") == 1
        or fields.get("fsLayers") is not None
        or expected.startswith(SCHEMA_1)
    ):
        raise ImageError(
            f"{what} is of Docker's schema 1, which is too old: pull and push the image again with "
            "a current tool"
        )
    lists, is_one = (
        any(fields.get(key) is not None for key in keys)
        for keys in (("manifests",), ("config", "layers"))
    )
    claims_list, claims_one = ({expected, said} & types for types in (INDEXES, MANIFESTS))
    if claims_list and claims_one:
        raise ImageError(f"{what} says that it is {brief(said)}, but {brief(expected)} is expected")
    if (lists or claims_list) and (is_one or claims_one):
        # A document that can be read as two things is read as another by somebody else.
        raise ImageError(f"{what} is of two kinds at once: of an index and of an image")
    if lists or claims_list:
        return Index(tuple(entry.descriptor() for entry in document.children("manifests")))
    if is_one or claims_one:
        media_type = next((one for one in (said, expected) if one in MANIFESTS), OCI_MANIFEST)
        return _manifest(document, media_type)
    if expected or said:
        raise NoImageError(
            f"{what} has the unknown media type {brief(said or expected)}", said or expected
        )
    raise NoImageError(f"{what} does not say of what media type it is", "unknown")


def _manifest(document: Document, media_type: str) -> Manifest:
    config = document.child("config")
    if config is None:
        raise ImageError(f"{document.what} has no 'config'")
    described = config.descriptor()
    layers = tuple(entry.descriptor() for entry in document.children("layers"))
    kind = document.string("artifactType") or described.media_type
    for layer in layers:
        if layer.media_type.endswith(("+json", "+xml")):  # a suffix says what is inside (RFC 6839)
            raise artefact(document.what, layer.media_type)
        if layer.media_type.endswith("+encrypted"):
            raise ImageError(f"{document.what} has the layer {layer.digest}, which is encrypted")
    return Manifest(media_type, described, layers, kind)


def artefact(what: str, kind: str) -> NoImageError:
    """That ``what`` is a manifest of something else, of this ``kind``."""
    return NoImageError(
        f"{what} is not of a container image but of an artefact: {brief(kind)}", kind
    )


def parse_config(data: bytes, what: str) -> Config:
    """Read a config, ``what`` in messages; one of something else is a NoImageError."""
    document = Document.parse(data, what)
    rootfs = document.child("rootfs")
    if rootfs is None or rootfs.string("type") not in ("", "layers"):
        reason = f"{what} has no 'rootfs' of layers: it is no container image's"
        raise NoImageError(reason, "unknown")
    diff_ids = tuple(rootfs.strings("diff_ids"))
    for diff_id in diff_ids:
        check_digest(diff_id)
    return Config(diff_ids, document.platform(), document.string("created") or None)


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
