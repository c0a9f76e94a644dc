"""Descriptors: media type, digest and size of a blob (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from reflayer.errors import ImageError, printable
from reflayer.images.model.platform import Platform
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import _Hash as Hash

# OCI image-spec, media-types.md; Docker's "Image Manifest V 2, Schema 2".
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYER_TYPES = {"none": OCI_LAYER, "gzip": f"{OCI_LAYER}+gzip", "zstd": f"{OCI_LAYER}+zstd"}
"""The media type of a layer by its compression; OCI knows no others."""
SAYS_NOTHING = frozenset({"", "application/json", "application/octet-stream", "text/plain"})
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that holds a tag in an image layout's index (OCI image-spec, annotations.md)."""

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation that containerd and Docker 25 and later take an image's whole name from."""

ALGORITHMS = ("sha256", "sha512")
_DIGEST = r"sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128}"


_NOTHING: Mapping[str, str] = {}


@record
class Descriptor:
    """What a blob is, by its content.

    Attributes:
        media_type: what is in it.
        digest: of all of it, sha256 or sha512.
        size: in bytes.
        annotations: whatever else is said of it.
        platform: what the image that it is runs on, where that is said.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = _NOTHING
    platform: Platform | None = None

    def __hash__(self) -> int:
        return hash((self.media_type, self.digest, self.size))

    def as_json(self) -> dict[str, object]:
        """The object that JSON documents hold, without annotations and platform."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def media_type(text: str) -> str:
    """A media type without its parameters and in lower case (RFC 9110, "Media Type")."""
    return text.partition(";")[0].strip().lower()


def layer_type(compression: str) -> str:
    """The media type of a layer; by OCI's pattern where OCI does not know the compression."""
    return LAYER_TYPES.get(compression, f"{OCI_LAYER}+{compression}")


def is_digest(text: str) -> bool:
    return re.fullmatch(_DIGEST, text) is not None


def check_digest(digest: str) -> tuple[str, str]:
    """Algorithm and hexadecimal digits of ``digest``; both are safe as names of files."""
    if not is_digest(digest):
        raise ImageError(f"{printable(digest[:200])!r} is not a sha256 or sha512 digest")
    algorithm, _, encoded = digest.partition(":")
    return algorithm, encoded


def hash_like(digest: str | None) -> Hash:
    """A hash of the algorithm of ``digest``, sha256 without one."""
    from hashlib import new  # it brings OpenSSL

    return new(check_digest(digest)[0] if digest else "sha256")


def digest_text(hashing: Hash) -> str:
    return f"{hashing.name}:{hashing.hexdigest()}"


def digest_bytes(data: bytes, like: str | None = None) -> str:
    """The digest of ``data``, by the algorithm of ``like``; sha256 without one."""
    hashing = hash_like(like)
    hashing.update(data)
    return digest_text(hashing)


def check_digest_is(digest: str, wanted: str) -> None:
    if digest != wanted:
        raise ImageError(f"the blob {wanted} has another content, with the digest {digest}")


def check_size(size: int, wanted: int, digest: str) -> None:
    if size != wanted:
        more = "more" if size > wanted else f"{size}"
        raise ImageError(f"the blob {digest} has {more} bytes, but should have {wanted}")
