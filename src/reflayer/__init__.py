"""reflayer keeps container layers as plain directories and clones them in the kernel.

The library is three names: ``copy_tree`` makes one tree the same as another, ``Store`` brings
images in, makes containers from them, and images from those, and ``Sandbox`` runs commands in one.
``ConfigChanges`` are for the store's ``commit``. What they raise on purpose is a ``ReflayerError``.
"""

from __future__ import annotations

from reflayer.lazy import on_first_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.archive.methods import copy_tree
    from reflayer.copy import CopyReport
    from reflayer.errors import ReflayerError
    from reflayer.images.build.manifest import ConfigChanges
    from reflayer.sandbox.box import Sandbox
    from reflayer.store import Store

__all__ = ["ConfigChanges", "CopyReport", "ReflayerError", "Sandbox", "Store", "copy_tree"]
__version__ = "0.1.0"

__getattr__ = on_first_use(
    globals(),
    {
        "ConfigChanges": "reflayer.images.build.manifest",
        "CopyReport": "reflayer.copy",
        "ReflayerError": "reflayer.errors",
        "Sandbox": "reflayer.sandbox.box",
        "Store": "reflayer.store",
        "copy_tree": "reflayer.archive.methods",
    },
)
