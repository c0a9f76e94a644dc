"""One tree to another: content, metadata, hard links, many hands.

The standard library is all that this package and what it imports need.
"""

from __future__ import annotations

from reflayer.copy.helpers import Pool
from reflayer.copy.remove import remove_tree
from reflayer.copy.report import CopyReport
from reflayer.copy.tree import METHODS, copy_tree
from reflayer.errors import CopyError

__all__ = ["METHODS", "CopyError", "CopyReport", "Pool", "copy_tree", "remove_tree"]
