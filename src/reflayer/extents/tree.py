"""Trees walked by descriptor and added up: alone, or by threads where that takes long."""

from __future__ import annotations

import errno
import os

from reflayer.extents.tally import Tally
from reflayer.walk.folders import open_beneath
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from reflayer.extents.usage import TreeUsage
    from reflayer.walk.folders import AnyPath

    Folders = list[tuple[Tally, bytes]]
    """Trees, and the paths of folders from their roots: what is still to be added."""


def measure_files(folder: AnyPath, names: Iterable[str]) -> TreeUsage:
    """Measure the regular files ``names`` of ``folder``, as if they were a tree without folders.

    Raises:
        OperationError: as ``measure_trees`` does.
    """
    tally = Tally(os.fsencode(folder))
    root = tally.open()
    try:
        for name in names if root >= 0 else ():
            try:
                tally.add_file(name, root, os.stat(name, dir_fd=root, follow_symlinks=False))
            except OSError as error:
                tally.miss(error, os.fsencode(name), "look at")
    finally:
        if root >= 0:
            os.close(root)
    return tally.usage()


def measure_trees(
    paths: Sequence[AnyPath],
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[TreeUsage]:
    """Measure the trees at ``paths``; what is gone before it is seen has nothing.

    Other mounts inside are left out. Data that is not written yet is written, file by file.

    Args:
        paths: the trees; none is followed if it is a symbolic link.
        workers: threads that work on them, this one included; by default as many as there are
            processors. Small trees never wait for one.
        progress: is called now and then, by this thread, with the entries since the last call.

    Raises:
        OperationError: something cannot be read for another reason than its permissions.
    """
    tallies = [Tally(os.fsencode(path)) for path in paths]
    told = 0

    def tell() -> None:
        nonlocal told
        seen = sum(tally.entries for tally in tallies)
        if progress is not None and seen > told:
            progress(seen - told)
            told = seen

    crew = Workers(lambda: lambda folders: _measure(folders, crew), workers, None, tell)
    if tallies:
        crew.run([(tally, b"") for tally in reversed(tallies)])
    tell()
    return [tally.usage() for tally in tallies]


def _measure(folders: Folders, workers: Workers) -> None:
    """Add all below ``folders``, but for those that are given to other workers."""
    tree: Tally | None = None
    root = -1
    try:
        while folders:
            half = len(folders) // 2  # the first ones, which are likely the larger half
            if workers.pause() and half and workers.give(folders[:half]):
                del folders[:half]
            tally, relative = folders.pop()
            if tally is not tree:
                if root >= 0:
                    os.close(root)
                tree, root = tally, -1
                root = tally.open()
            if root < 0:
                continue
            if not relative:
                tally.add_other(os.fstat(root))
            try:
                # From the root: a walk that keeps its way open needs a descriptor for each level.
                folder = open_beneath(root, relative, cross_mounts=False)
            except OSError as error:
                if error.errno != errno.EXDEV:  # something is mounted there
                    tally.miss(error, relative, "open")
                continue
            try:
                for path in tally.add_folder(folder, relative, workers.pause):
                    folders.append((tally, path))
            finally:
                os.close(folder)
    finally:
        if root >= 0:
            os.close(root)
