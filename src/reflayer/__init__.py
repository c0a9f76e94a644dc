"""reflayer keeps container layers as plain directories and clones them in the kernel.

The library is two names: ``copy_tree`` makes one tree the same as another, and ``Store`` brings
images in and makes containers from them. What they raise on purpose is a ``ReflayerError``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy import CopyReport, copy_tree
    from reflayer.errors import ReflayerError
    from reflayer.store import Store

__all__ = ["CopyReport", "ReflayerError", "Store", "copy_tree"]
__version__ = "0.1.0"

_HOME = {
    "CopyReport": "reflayer.copy",
    "ReflayerError": "reflayer.errors",
    "Store": "reflayer.store",
    "copy_tree": "reflayer.copy",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import reflayer`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
