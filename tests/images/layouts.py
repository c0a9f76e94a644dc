"""Images made by hand for the tests: layers, configs, manifests, and layouts that hold them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.archive.tars import entry, tar

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

Json = dict[str, object]


def sha256(data: bytes) -> str:
    """The digest as OCI writes it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(name: str, content: bytes = b"content") -> bytes:
    """A plain layer with one file."""
    return tar(entry(name, content))


def config(*plain: bytes, architecture: str = "amd64", **more: object) -> bytes:
    """The config of an image of these plain layers."""
    rootfs = {"type": "layers", "diff_ids": [sha256(data) for data in plain]}
    value = {"architecture": architecture, "os": "linux", "rootfs": rootfs, **more}
    return json.dumps(value).encode()


@dataclass
class Layout:
    """An OCI image layout that is being made."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "blobs/sha256").mkdir(parents=True)
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.index()

    def blob(self, data: bytes, media_type: str, **more: object) -> Json:
        """Add a blob; return its descriptor."""
        (self.folder / "blobs" / sha256(data).replace(":", "/")).write_bytes(data)
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}

    def path(self, descriptor: Mapping[str, object]) -> Path:
        """Where a blob is."""
        return self.folder / "blobs" / str(descriptor["digest"]).replace(":", "/")

    def document(self, value: object, media_type: str, **more: object) -> Json:
        """Add a JSON document; return its descriptor."""
        return self.blob(json.dumps(value).encode(), media_type, **more)

    def image(self, *plain: bytes, docker: bool = False, **more: object) -> Json:
        """Add an image of these layers, compressed by gzip; return its manifest's descriptor."""
        layer_type = DOCKER_LAYER + ".gzip" if docker else LAYER + "+gzip"
        manifest = DOCKER_MANIFEST if docker else MANIFEST
        config_type = DOCKER_CONFIG if docker else CONFIG
        value = {
            "schemaVersion": 2,
            "mediaType": manifest,
            "config": self.blob(config(*plain, **more), config_type),  # type: ignore[arg-type]
            "layers": [self.blob(gzip.compress(data, mtime=0), layer_type) for data in plain],
        }
        return self.document(value, manifest)

    def signature(self, config: str, media_type: str = "application/vnd.example.signature") -> Json:
        """Add the manifest of something that is no image; return its descriptor."""
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(config.encode(), media_type),
            "layers": [self.blob(b"signed", "application/octet-stream")],
        }
        return self.document(value, MANIFEST)

    def list(self, *manifests: Json, docker: bool = False) -> Json:
        """Add an index of these; return its descriptor."""
        media_type = DOCKER_LIST if docker else INDEX
        value = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
        return self.document(value, media_type)

    def index(self, *manifests: Json, **tags: Json) -> None:
        """Let the layout's index list these, and those with a tag."""
        entries = [*manifests, *(tagged(one, tag) for tag, one in tags.items())]
        value = {"schemaVersion": 2, "manifests": entries}
        (self.folder / "index.json").write_text(json.dumps(value))


def tagged(descriptor: Json, tag: str) -> Json:
    """The descriptor with a tag."""
    return {**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}}


def on(descriptor: Json, platform: str) -> Json:
    """The descriptor with a platform, ``OS/ARCH[/VARIANT]``."""
    parts: Sequence[str] = platform.split("/")
    return {
        **descriptor,
        "platform": dict(zip(("os", "architecture", "variant"), parts, strict=False)),
    }
