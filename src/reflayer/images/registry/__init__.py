"""Registries: images out of them and into them (OCI distribution-spec).

``Access`` says what a user wants of credentials and certificates.
"""

from __future__ import annotations

from reflayer.lazy import on_first_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.registry.credentials import Access as Access
    from reflayer.images.registry.credentials import Credentials as Credentials
    from reflayer.images.registry.destination import RegistryDestination as RegistryDestination
    from reflayer.images.registry.source import RegistrySource as RegistrySource

_HERE = "reflayer.images.registry"
_HOMES = {
    "Access": f"{_HERE}.credentials",
    "Credentials": f"{_HERE}.credentials",
    "RegistrySource": f"{_HERE}.source",
    "RegistryDestination": f"{_HERE}.destination",
}
__getattr__ = on_first_use(globals(), _HOMES)

__all__ = ["Access", "Credentials", "RegistryDestination", "RegistrySource"]
