"""Layer tars: apply one to a directory, tell what changed between two, pack the change.

``compression`` and the ``tar_`` modules know formats and nothing of the file system; ``apply`` and
what it uses make entries. What there is for ``pack`` to write is told by ``tree_diff``, and by
``upper_diff`` of a layer that is a difference already.
"""

from __future__ import annotations

from reflayer.lazy import on_first_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.archive.apply import AppliedLayer, apply_layer, apply_stream
    from reflayer.archive.changed import (
        Change,
        Usage,
        changed_size,
        changed_usage,
        changes,
        difference_changes,
        difference_size,
        difference_usage,
    )
    from reflayer.archive.pack import Packing, pack_difference, pack_layer, pack_tree
    from reflayer.walk.id_map import IdMap, IdRange

__all__ = [
    "AppliedLayer",
    "Change",
    "IdMap",
    "IdRange",
    "Packing",
    "Usage",
    "apply_layer",
    "apply_stream",
    "changed_size",
    "changed_usage",
    "changes",
    "difference_changes",
    "difference_size",
    "difference_usage",
    "pack_difference",
    "pack_layer",
    "pack_tree",
]

# Who lists changes need not wait for the rest.
__getattr__ = on_first_use(
    globals(),
    {
        "AppliedLayer": "reflayer.archive.apply",
        "Change": "reflayer.archive.changed",
        "IdMap": "reflayer.walk.id_map",
        "IdRange": "reflayer.walk.id_map",
        "Packing": "reflayer.archive.pack",
        "Usage": "reflayer.archive.changed",
        "apply_layer": "reflayer.archive.apply",
        "apply_stream": "reflayer.archive.apply",
        "changed_size": "reflayer.archive.changed",
        "changed_usage": "reflayer.archive.changed",
        "changes": "reflayer.archive.changed",
        "difference_changes": "reflayer.archive.changed",
        "difference_size": "reflayer.archive.changed",
        "difference_usage": "reflayer.archive.changed",
        "pack_difference": "reflayer.archive.pack",
        "pack_layer": "reflayer.archive.pack",
        "pack_tree": "reflayer.archive.pack",
    },
)
