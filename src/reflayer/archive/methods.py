"""Every method of copying a tree by its name: ``tar`` joins those of ``reflayer.copy``."""

from __future__ import annotations

from reflayer.copy import method, tree
from reflayer.copy.tree import copy_tree as copy_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.folder import Folder, Job
    from reflayer.copy.tree import Counts
    from reflayer.progress import Progress

METHODS = (*method.METHODS, "tar")
"""The names of the methods that ``copy_tree`` takes."""


def _move_as_tar(job: Job, root: Folder, progress: Progress | None) -> Counts:
    from reflayer.archive.tar_copy import copy_as_tar  # it costs start-up time

    return copy_as_tar(job, root, progress)


tree.MOVES["tar"] = _move_as_tar
