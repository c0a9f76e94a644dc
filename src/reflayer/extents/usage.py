"""What one tree takes, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """What a tree has; all sizes in bytes, a file with several names in it counted once.

    Attributes:
        inodes: files of every type, the root included.
        size: lengths of the regular files, as ``ls`` shows them.
        allocated: what it takes if nothing is shared, as ``du`` shows it.
        own: what nobody else has: unshared blocks of data, and what the file system counts
            besides: folders, long extended attributes, XFS's inodes. It is freed with the tree.
        untold: how much of ``own`` may be shared all the same, since nobody tells.
        shared: blocks with other owners, here or elsewhere: place and length by turns.
        encoded: the same of compressed data. Its length is what it takes, or where that is not told
            (to others than root, or not by btrfs) what it holds; so are those in ``own``.
        unread: files and folders that this user may not read.
    """

    inodes: int
    size: int
    allocated: int
    own: int
    untold: int
    shared: array[int]
    encoded: array[int]
    unread: int
