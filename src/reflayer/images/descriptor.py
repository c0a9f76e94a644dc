"""Descriptors: type, digest and size of a blob (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reflayer.images.platform import Platform

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that holds a tag in an image layout's index (OCI image-spec, annotations.md)."""

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation that containerd and Docker 25 and later take an image's whole name from."""


@dataclass(frozen=True, slots=True)
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
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None

    def as_json(self) -> dict[str, object]:
        """The object that JSON documents hold, without annotations and platform."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
