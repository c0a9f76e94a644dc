"""Layer tars: apply one to a directory, tell what changed between two, pack the change.

The readers know formats and nothing of the file system; ``layer`` and what it uses make entries.
"""

from __future__ import annotations

from reflayer.archive.apply import AppliedLayer, apply_layer
from reflayer.archive.changes import Change, changes
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
