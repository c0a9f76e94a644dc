"""References, manifests, the content store, and the transports that bring images in.

``open_source(text)`` says what an image is called and where it is; its ``fetch`` brings it into a
``Content``, an OCI image layout, and returns the ``Image``: digests of all that is in it.
"""

from __future__ import annotations

from reflayer.errors import ImageError
from reflayer.images.content import Content
from reflayer.images.descriptor import Descriptor
from reflayer.images.image import Image
from reflayer.images.platform import Platform
from reflayer.images.reference import Reference, parse_reference
from reflayer.images.resolve import read_image
from reflayer.images.sources import RootFs, Source, open_source
from reflayer.progress import Progress

__all__ = [
    "Content",
    "Descriptor",
    "Image",
    "ImageError",
    "Platform",
    "Progress",
    "Reference",
    "RootFs",
    "Source",
    "open_source",
    "parse_reference",
    "read_image",
]
