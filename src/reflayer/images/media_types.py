"""Media types of manifests, configs and layers: OCI's and Docker's.

OCI image-spec, media-types.md.
"""

from __future__ import annotations

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
SAYS_NOTHING = frozenset({"", "application/json", "application/octet-stream", "text/plain"})
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"


def media_type(text: str) -> str:
    """A media type without its parameters and in lower case (RFC 9110, "Media Type")."""
    return text.partition(";")[0].strip().lower()
