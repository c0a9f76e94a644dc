"""Walk one tree by descriptor, and add up what it has."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from reflayer.copy.folder import OPEN_FOLDER
from reflayer.extents.tally import Tally
from reflayer.linux.openat2 import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from reflayer.copy.paths import AnyPath
    from reflayer.extents.usage import TreeUsage

_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_MOST_PATH = 4000  # bytes: openat2(2) takes less than PATH_MAX at once


def measure_files(folder: AnyPath, names: Iterable[str]) -> TreeUsage:
    """Measure the regular files ``names`` of ``folder``, as if they were a tree without folders.

    Raises:
        OperationError: as ``measure_tree`` does.
    """
    tally = Tally(os.fsencode(folder))
    with tally.opened() as root:
        for name in names if root >= 0 else ():
            try:
                tally.add_file(name, root, os.stat(name, dir_fd=root, follow_symlinks=False))
            except OSError as error:
                tally.miss(error, os.fsencode(name), "look at")
    return tally.usage()


def measure_tree(path: AnyPath, *, progress: Callable[[int], None] | None = None) -> TreeUsage:
    """Measure the tree at ``path``; what is gone before it is seen has nothing.

    Other mounts inside are left out. Data that is not written yet is written, file by file.

    Args:
        path: is not followed if it is a symbolic link.
        progress: is called after each folder with the entries that were in it.

    Raises:
        OperationError: something cannot be read for another reason than its permissions.
    """
    tally = Tally(os.fsencode(path))
    with tally.opened() as root:
        if root >= 0:
            tally.add_other(os.fstat(root))
            for folder, relative in _folders(root, tally):
                entries = tally.add_folder(folder, relative)
                if progress is not None:
                    progress(entries)
    return tally.usage()


def _folders(root: int, tally: Tally) -> Iterator[tuple[int, bytes]]:
    """Each folder, open until the next is asked for, and its path from the root."""
    tally.pending.append(b"")
    while tally.pending:
        relative = tally.pending.pop()
        try:
            folder = _open_beneath(root, relative or b".")
        except OSError as error:
            if error.errno != errno.EXDEV:  # something is mounted there
                tally.miss(error, relative, "open")
            continue
        try:
            yield folder, relative
        finally:
            os.close(folder)


def _open_beneath(root: int, path: bytes) -> int:
    """Open a folder by its path from ``root``, of any length.

    From the root, since a walk that keeps its way open would need a descriptor for each level.

    Raises:
        OSError: EXDEV where something is mounted on the way; otherwise as openat2(2) says.
    """
    fd = -1
    while len(path) > _MOST_PATH:
        cut = path.rindex(b"/", 0, _MOST_PATH)
        fd, path = _step(root, fd, path[:cut]), path[cut + 1 :]
    return _step(root, fd, path)


def _step(root: int, fd: int, path: bytes) -> int:
    try:
        return openat2(root if fd < 0 else fd, path, OPEN_FOLDER, _BENEATH)
    finally:
        if fd >= 0:
            os.close(fd)
