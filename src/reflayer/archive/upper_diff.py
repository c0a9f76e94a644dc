"""What a difference holds, read from itself: the layer that it was made of, entry for entry.

A difference is one tree with whiteouts and opaque folders in it, so it is walked as a tree of which
all is new. Nothing has to be compared, and no stack has to be there. To tell what is changed from
what is added, names are looked up in the stack below, and folders are compared with those there;
what is in them counts as changed.
"""

from __future__ import annotations

import os

from reflayer.archive.tree_diff import TreeDiff
from reflayer.walk.facts import list_attributes
from reflayer.walk.overlay import is_implied, is_opaque
from reflayer.walk.stack import Part, Union, tree_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.archive.compare import FolderPair


def _status_in_tree(name: bytes, dir_fd: int) -> os.stat_result:
    return tree_status(dir_fd, name, os.lstat(name, dir_fd=dir_fd))


class UpperDiff(TreeDiff):
    """One walk over a difference, and over as much of the stack below as it has names for.

    Without a stack each whiteout is told as deleted.
    """

    is_whole = False
    _lstat = staticmethod(_status_in_tree)

    def _before(self, pair: FolderPair, name: bytes) -> tuple[Part, os.stat_result]:
        if pair.old is None:  # it is a whiteout
            return Part(pair.fd, self.is_whole, 0), os.lstat(name, dir_fd=pair.fd)
        return super()._before(pair, name)

    def _read_names(self, pair: FolderPair) -> None:
        places = Union([Part(pair.fd, self.is_whole, 0)]).places()
        whiteouts = {name for name, has_it in places.items() if not has_it}
        names = places.keys() - whiteouts
        is_emptied = is_opaque(pair.fd)
        pair.hides_all = is_emptied or (pair.parent is not None and pair.parent.hides_all)
        # What is as it was below, and yet replaces that, has to be told.
        pair.is_implied = not pair.hides_all and is_implied(list_attributes(pair.fd))
        if self._parent is None:
            pair.is_emptied = is_emptied
            pair.gone = whiteouts
            pair.fresh = names
        elif pair.old is None:
            pair.fresh = names
        else:
            lower = {*pair.old.names()}
            pair.gone = lower - names if pair.hides_all else lower & whiteouts
            pair.fresh = names - lower
        pair.todo = sorted(names | pair.gone, reverse=True)
