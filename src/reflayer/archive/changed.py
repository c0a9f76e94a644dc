"""What changed in a tree, or is in a difference: listed, counted in bytes, and what it takes."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from reflayer.archive.tree_diff import DELETED, RELINKED, TreeDiff
from reflayer.archive.upper_diff import UpperDiff
from reflayer.walk.folders import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from reflayer.archive.tree_diff import Difference
    from reflayer.walk.folders import AnyPath
    from reflayer.walk.stack import AnyStack

_BLOCK = 512  # bytes: the unit of st_blocks, inode(7)


class Change(NamedTuple):
    """One change."""

    kind: str  # ``ADDED``, ``MODIFIED`` or ``DELETED``
    path: str  # where, from the root, which it begins with "/" for; as ``os.fsdecode`` has it


class Usage(NamedTuple):
    """What a tree takes."""

    bytes: int  # that are allocated to its inodes' data
    inodes: int  # folders included


def changes(
    root: AnyPath, parent: AnyStack | None = None, *, cloned: float | None = None
) -> Iterator[Change]:
    """What is different in ``root`` from ``parent``, in the order of a walk by sorted names.

    A folder is changed where anything in it is, what is in a deleted folder is not told, and of the
    roots themselves nothing is. Links are not followed, and what is mounted in ``root`` stays out.

    Args:
        root: the changed tree.
        parent: the tree that it was cloned from, unchanged since, or the stack of layers, topmost
            first; None for an empty one.
        cloned: when the clone was complete, in seconds since the epoch by this machine's clock.
            What has a ctime from the time of the cloning needs no look inside then.

    Raises:
        OperationError: something cannot be read, or went away meanwhile.
    """
    return _told(TreeDiff(root, parent, cloned))


def changed_size(
    root: AnyPath, parent: AnyStack | None = None, *, cloned: float | None = None
) -> int:
    """The bytes of all that ``changes`` tells as added or changed, but for folders.

    What has several names counts once.
    """
    return _size(TreeDiff(root, parent, cloned))


def changed_usage(
    root: AnyPath, parent: AnyStack | None = None, *, cloned: float | None = None
) -> Usage:
    """What all that ``changes`` tells as added or changed takes, and the folders that it is in."""
    found = TreeDiff(root, parent, cloned)
    return _usage(difference for difference in found if difference.kind != DELETED)


def difference_changes(upper: AnyPath, below: AnyStack) -> Iterator[Change]:
    """What ``changes`` tells of the tree that the difference ``upper`` on ``below`` is.

    It is read from the difference, and nothing is compared but folders: all else in it counts as
    changed, be it as before or not.

    Raises:
        OperationError: something cannot be read, or went away meanwhile.
    """
    return _told(UpperDiff(upper, below))


def difference_size(upper: AnyPath) -> int:
    """The bytes of all in the difference ``upper`` but for folders and whiteouts.

    What has several names counts once.
    """
    return _size(UpperDiff(upper))


def difference_usage(upper: AnyPath) -> Usage:
    """What the difference ``upper`` takes itself, whiteouts included."""
    return _usage(UpperDiff(upper))


def _told(diff: TreeDiff) -> Iterator[Change]:
    for difference in diff:
        if difference.kind != RELINKED and (path := difference.folder.path(difference.name)):
            yield Change(difference.kind, os.fsdecode(b"/" + path))


def _size(diff: TreeDiff) -> int:
    return sum(
        status.st_size
        for status in _inodes(difference for difference in diff if difference.kind != DELETED)
        if not stat.S_ISDIR(status.st_mode)
    )


def _usage(differences: Iterable[Difference]) -> Usage:
    blocks = inodes = 0
    for status in _inodes(differences):
        blocks += status.st_blocks
        inodes += 1
    return Usage(blocks * _BLOCK, inodes)


def _inodes(differences: Iterable[Difference]) -> Iterator[os.stat_result]:
    """The status of each inode, once."""
    seen = set()
    for difference in differences:
        status = difference.status
        if difference.kind == RELINKED or difference.is_mount:
            continue
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            key = identity(status)
            if key in seen:
                continue
            seen.add(key)
        yield status
