"""What changed in a tree since it was cloned, as Docker's diff tells it."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from reflayer.archive.walk import DELETED, RELINKED, Walk
from reflayer.walk.folders import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.walk.folders import AnyPath


_BLOCK = 512  # bytes: the unit of st_blocks, inode(7)


class Change(NamedTuple):
    """One change.

    Attributes:
        kind: ``A`` (added), ``C`` (changed) or ``D`` (deleted).
        path: where, from the root, which it begins with ``/`` for; as ``os.fsdecode`` has it.
    """

    kind: str
    path: str


class Usage(NamedTuple):
    """What a tree takes.

    Attributes:
        bytes: that are allocated to its inodes' data.
        inodes: how many it has, folders included.
    """

    bytes: int
    inodes: int


def changes(
    root: AnyPath, parent: AnyPath | None = None, *, cloned: float | None = None
) -> Iterator[Change]:
    """What is different in ``root`` from ``parent``, in the order of a walk by sorted names.

    A folder is changed where anything in it is, what is in a deleted folder is not told, and of the
    roots themselves nothing is. Links are not followed, and what is mounted in ``root`` stays out.

    Args:
        root: the changed tree.
        parent: the tree that it was cloned from, unchanged since; None for an empty one.
        cloned: when the clone was complete, in seconds since the epoch by this machine's clock.
            What has a ctime from the time of the cloning needs no look inside then.

    Raises:
        OperationError: something cannot be read, or went away meanwhile.
    """
    before = None if parent is None else os.fsencode(parent)
    for difference in Walk(os.fsencode(root), before, cloned):
        if difference.kind != RELINKED and (path := difference.folder.path(difference.name)):
            yield Change(difference.kind, os.fsdecode(b"/" + path))


def changed_size(
    root: AnyPath, parent: AnyPath | None = None, *, cloned: float | None = None
) -> int:
    """The bytes of all that ``changes`` tells as added or changed, but for folders.

    What has several names counts once.

    Raises:
        OperationError: as ``changes`` does.
    """
    return sum(
        status.st_size
        for status in _changed_inodes(root, parent, cloned)
        if not stat.S_ISDIR(status.st_mode)
    )


def changed_usage(
    root: AnyPath, parent: AnyPath | None = None, *, cloned: float | None = None
) -> Usage:
    """What all that ``changes`` tells as added or changed takes, and the folders that it is in.

    Raises:
        OperationError: as ``changes`` does.
    """
    blocks = inodes = 0
    for status in _changed_inodes(root, parent, cloned):
        blocks += status.st_blocks
        inodes += 1
    return Usage(blocks * _BLOCK, inodes)


def _changed_inodes(
    root: AnyPath, parent: AnyPath | None, cloned: float | None
) -> Iterator[os.stat_result]:
    before = None if parent is None else os.fsencode(parent)
    seen = set()
    for difference in Walk(os.fsencode(root), before, cloned):
        status = difference.status
        if difference.kind in (DELETED, RELINKED) or difference.is_mount:
            continue
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            key = identity(status)
            if key in seen:
                continue
            seen.add(key)
        yield status
