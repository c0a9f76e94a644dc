"""Registries: images out of them and into them (OCI distribution-spec).

``fetching`` finds an image and hands out its layers while they come; ``push_image`` is the way
back. ``Access`` says what a user wants of credentials and certificates.
"""

from __future__ import annotations

from reflayer.images.registry.access import Access, Credentials
from reflayer.lazy import on_first_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.registry.fetching import Fetching as Fetching
    from reflayer.images.registry.fetching import fetching as fetching
    from reflayer.images.registry.push import push_image as push_image

_HERE = "reflayer.images.registry"
_HOMES = {
    "Fetching": f"{_HERE}.fetching",
    "fetching": f"{_HERE}.fetching",
    "push_image": f"{_HERE}.push",
}
__getattr__ = on_first_use(globals(), _HOMES)

__all__ = ["Access", "Credentials", "Fetching", "fetching", "push_image"]
