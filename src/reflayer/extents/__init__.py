"""What trees take on disk: blocks that one has for itself, and blocks that several share.

The file system tells of each file where its blocks lie, and which have more than one owner
(FIEMAP). So each tree is walked once, only the places of shared blocks are kept, and laying those
of all trees side by side tells which share which.

**What is not told.** How many blocks compressed data takes, but on btrfs to root: otherwise it
counts as it reads. Of a btrfs extent that is not compressed, and of which a part was overwritten,
that all of it stays: the part no file shows is not seen. Of btrfs's metadata, small files inside it
included, whose it is: it is not counted. Deleted snapshots have their blocks until btrfs has taken
them apart, half a minute later. Which others have shared blocks that none of the trees at hand
shares.
"""

from __future__ import annotations

from reflayer.extents.measure import TreeUsage, measure_files, measure_trees
from reflayer.extents.owners import share_out

__all__ = ["TreeUsage", "measure_files", "measure_trees", "share_out"]
