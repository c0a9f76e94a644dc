"""What changed in a tree since it was cloned, as Docker's diff tells it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from reflayer.archive.walk import RELINKED, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.copy.paths import AnyPath


class Change(NamedTuple):
    """One change.

    Attributes:
        kind: ``A`` (added), ``C`` (changed) or ``D`` (deleted).
        path: where, from the root, which it begins with ``/`` for; raw bytes.
    """

    kind: str
    path: bytes


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
            yield Change(difference.kind, b"/" + path)
