"""One tree, or a stack of them, to another: content, metadata, hard links, many workers.

``tree`` is the recipe: the ``source`` is opened, the ``destination`` checked and made ready, the
``method`` for content chosen, and each ``worker`` goes through folders of its own (``folder``) and
makes their entries. A folder that several layers of a stack have is filled from each (``merged``);
one that a single layer has costs what it costs in a tree that is no stack.
The ordinary names of a folder are made by one call into C (``reflayer.linux.names``), all others by
``entries``, and inodes with several names by way of ``links``. ``remove`` deletes a tree, with
workers as well.

The standard library is all that this package and what it imports need.
"""

from __future__ import annotations

from reflayer.lazy import on_first_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.method import METHODS
    from reflayer.copy.remove import remove_tree
    from reflayer.copy.report import CopyReport
    from reflayer.copy.tree import copy_tree
    from reflayer.errors import CopyError
    from reflayer.workers.pool import Pool

__all__ = ["METHODS", "CopyError", "CopyReport", "Pool", "copy_tree", "remove_tree"]

__getattr__ = on_first_use(
    globals(),
    {
        "METHODS": "reflayer.copy.method",
        "CopyError": "reflayer.errors",
        "CopyReport": "reflayer.copy.report",
        "Pool": "reflayer.workers.pool",
        "copy_tree": "reflayer.copy.tree",
        "remove_tree": "reflayer.copy.remove",
    },
)
