"""Layer tars: apply one to a directory, tell what changed between two, pack the change.

The readers know formats and nothing of the file system; ``layer`` and what it uses make entries.
The writer is ``tar_writer``; ``walk`` meets what there is for it to write.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.archive.apply import AppliedLayer, apply_layer
    from reflayer.archive.change import Change, changes
    from reflayer.archive.pack import Packing, pack_layer, pack_tree
    from reflayer.errors import ArchiveError

__all__ = [
    "AppliedLayer",
    "ArchiveError",
    "Change",
    "Packing",
    "apply_layer",
    "changes",
    "pack_layer",
    "pack_tree",
]

_HOME = {
    "AppliedLayer": "reflayer.archive.apply",
    "ArchiveError": "reflayer.errors",
    "Change": "reflayer.archive.change",
    "Packing": "reflayer.archive.pack",
    "apply_layer": "reflayer.archive.apply",
    "changes": "reflayer.archive.change",
    "pack_layer": "reflayer.archive.pack",
    "pack_tree": "reflayer.archive.pack",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: who lists changes need not wait for the rest."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
