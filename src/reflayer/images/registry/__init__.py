"""Registries: images out of them and into them (OCI distribution-spec).

``fetching`` finds an image and hands out its layers while they come; ``push_image`` is the way
back. ``Access`` says what a user wants of credentials and certificates.
"""

from __future__ import annotations

from reflayer.lazy import on_first_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.registry.credentials import Access as Access
    from reflayer.images.registry.credentials import Credentials as Credentials
    from reflayer.images.registry.destination import push_image as push_image
    from reflayer.images.registry.source import fetching as fetching

_HERE = "reflayer.images.registry"
_HOMES = {
    "Access": f"{_HERE}.credentials",
    "Credentials": f"{_HERE}.credentials",
    "fetching": f"{_HERE}.source",
    "push_image": f"{_HERE}.destination",
}
__getattr__ = on_first_use(globals(), _HOMES)

__all__ = ["Access", "Credentials", "fetching", "push_image"]
