"""A folder of a changed tree, open, side by side with its counterpart in the tree before."""

from __future__ import annotations

import os
import sys
from operator import methodcaller

from reflayer.walk.folders import identity, open_beneath, open_parent

# os.fsencode, as it is for what os.listdir returns
_encode = methodcaller("encode", sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


class Pair:
    """One folder on the way of a walk.

    Attributes:
        above: the folder above; None for the root.
        name: its name there; empty for the root.
        new: descriptor in the changed tree; -1 while shut.
        old: descriptor in the tree before; -1 while shut, or where ``before`` is None.
        status: of the folder in the changed tree.
        before: the same of the folder in the tree before, None where that has none of the name.
        is_settled: nothing was moved here, or on the way here, since the tree was cloned.
        is_untouched: neither the folder's metadata nor the names in it are other than before.
        fresh: names that only the changed tree has.
        gone: names that only the tree before has.
        is_changed: the folder itself is not as before, whatever is in it.
        is_emptied: all that was in it before is gone.
        todo: names still to be compared, the next one last.
        is_added: nothing at all had the name in the tree before.
        is_packed: an archive has it already.
        told: the kind as which the folder was told of, empty for not yet; None: not looked at yet.
    """

    __slots__ = (
        "above", "before", "fresh", "gone", "is_added", "is_changed", "is_emptied", "is_packed",
        "is_settled", "is_untouched", "name", "new", "old", "status", "todo", "told",
    )  # fmt: skip

    def __init__(
        self,
        above: Pair | None,
        name: bytes,
        new: int,
        old: int,
        status: os.stat_result,
        before: os.stat_result | None,
    ) -> None:
        """Take over both descriptors; ``old`` is -1 where ``before`` is None."""
        self.above = above
        self.name = name
        self.new = new
        self.old = old
        self.status = status
        self.before = before
        self.is_added = False
        self.is_settled = False
        self.is_untouched = False
        self.fresh: set[bytes] = set()
        self.gone: set[bytes] = set()
        self.is_changed = False
        self.is_emptied = False
        self.is_packed = False
        self.todo: list[bytes] = []
        self.told: str | None = None

    def path(self, name: bytes = b"") -> bytes:
        """The path from the root of ``name`` in this folder, or of the folder; the root's is ""."""
        names = [name] if name else []
        folder: Pair | None = self
        while folder is not None:
            if folder.name:
                names.append(folder.name)
            folder = folder.above
        return b"/".join(reversed(names))

    def read(self, *, has_same_names: bool) -> None:
        """Note the names in both folders; those in the one before only if they may be others.

        Raises:
            OSError: one of them cannot be read.
        """
        names = set(map(_encode, os.listdir(self.new)))
        if self.old < 0:
            self.fresh = names
        elif not has_same_names:
            earlier = set(map(_encode, os.listdir(self.old)))
            self.fresh = names - earlier
            self.gone = earlier - names
            self.is_emptied = bool(earlier) and len(self.gone) == len(earlier)
        self.todo = sorted(names | self.gone if self.gone else names, reverse=True)

    def close(self) -> None:
        """Shut both descriptors; ``reopen`` finds the folders again."""
        new, old = self.new, self.old
        self.new = self.old = -1
        if new >= 0:
            os.close(new)
        if old >= 0:
            os.close(old)

    def reopen(self, below: Pair, root: Pair) -> None:
        """Open both folders again, from ``below``, an open one directly in this.

        Raises:
            OSError: ESTALE when the folder above ``below`` is another one now.
        """
        self.new = open_parent(below.new, identity(self.status))
        if self.before is not None:
            if below.old >= 0:
                self.old = open_parent(below.old, identity(self.before))
            else:
                self.old = open_beneath(root.old, self.path())
