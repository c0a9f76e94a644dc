"""What one tree has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reflayer.extents.owners import share_out
from reflayer.extents.tree import measure_tree

if TYPE_CHECKING:
    from reflayer.copy.paths import AnyPath


def own_bytes(root: AnyPath, parent: AnyPath | None = None) -> tuple[int, int]:
    """What the tree at ``root`` takes by itself: bytes, and inodes of every type.

    Args:
        root: the tree.
        parent: the tree that it was cloned from: all that it does not share with that counts. None:
            all that it shares with nobody, which takes half the time.

    Raises:
        OperationError: something cannot be read for another reason than its permissions.
    """
    tree = measure_tree(root)
    own = tree.own
    if parent is not None and (tree.shared or tree.encoded):
        _root, _parent = 2, 4
        for owners, length in share_out([tree, measure_tree(parent)]).items():
            if owners & _root and not owners & _parent:
                own += length
    return own, tree.inodes
