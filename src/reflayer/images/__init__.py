"""References, manifests, the blob store, and the transports that bring images in and out.

``open_source(text)`` says what an image is called and where it is; its ``fetch`` brings it into a
``BlobStore``, an OCI image layout, and returns the ``Image``: digests of all that is in it.
"""

from __future__ import annotations

from reflayer.lazy import on_first_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.errors import ImageError
    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.fetch import Destination, Source
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.images.model.reference import Reference, parse_reference
    from reflayer.images.transports import RootFs, open_source, registry_reference
    from reflayer.progress import Progress

__all__ = [
    "BlobStore",
    "Descriptor",
    "Destination",
    "Image",
    "ImageError",
    "Platform",
    "Progress",
    "Reference",
    "RootFs",
    "Source",
    "open_source",
    "parse_reference",
    "registry_reference",
]

__getattr__ = on_first_use(
    globals(),
    {
        "BlobStore": "reflayer.images.content.blob_store",
        "Descriptor": "reflayer.images.model.descriptor",
        "Destination": "reflayer.images.content.fetch",
        "Image": "reflayer.images.model.image",
        "ImageError": "reflayer.errors",
        "Platform": "reflayer.images.model.platform",
        "Progress": "reflayer.progress",
        "Reference": "reflayer.images.model.reference",
        "RootFs": "reflayer.images.transports",
        "Source": "reflayer.images.content.fetch",
        "open_source": "reflayer.images.transports",
        "parse_reference": "reflayer.images.model.reference",
        "registry_reference": "reflayer.images.transports",
    },
)
