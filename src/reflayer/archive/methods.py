"""Every method of copying a tree by its name: those of ``reflayer.copy``, and ``tar``."""

from __future__ import annotations

from reflayer.copy import method as copy_method
from reflayer.copy import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.report import CopyReport
    from reflayer.copy.tree import Move
    from reflayer.progress import Progress
    from reflayer.walk.folders import AnyPath
    from reflayer.workers.pool import Pool

METHODS = (*copy_method.METHODS, "tar")
"""The names of the methods that ``copy_tree`` takes."""


def copy_tree(
    src: AnyPath,
    dst: AnyPath,
    *,
    method: str = "auto",
    ownership: str = "keep",
    cross_mounts: bool = False,
    workers: int | None = None,
    pool: Pool | None = None,
    progress: Progress | None = None,
) -> CopyReport:
    """Make ``dst`` the same tree as the folder ``src``: ``reflayer.copy.copy_tree`` with one more.

    Args:
        src, dst, ownership, cross_mounts, progress: as there.
        method: one of those, or ``tar``: packed as a PAX archive by one thread and unpacked by
            another. It keeps all that a tar can hold, which is all but sockets.
        workers, pool: as there; ``tar`` takes none.

    Raises:
        CopyError, ValueError: as there.
    """
    move: Move | None = None
    if method == "tar":
        from reflayer.archive.tar_copy import copy_as_tar  # it costs start-up time

        move = copy_as_tar
    return tree.copy_tree(
        src,
        dst,
        method=method,
        ownership=ownership,
        cross_mounts=cross_mounts,
        workers=workers,
        pool=pool,
        progress=progress,
        move=move,
    )
