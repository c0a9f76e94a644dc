"""A layer's folder, new: empty, or a clone of its parent."""

from __future__ import annotations

import os

from reflayer.errors import LayerError, OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy import CopyReport, Pool

METHODS = ("auto", "snapshot", "reflink", "range", "stream", "tar")
"""The names of the methods that a driver takes."""


def empty_layer(path: str) -> None:
    """Make the empty folder ``path``, mode 0755.

    Raises:
        OperationError: it cannot be made.
    """
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o755)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "mkdir") from error


def clone_layer(
    parent: str,
    path: str,
    *,
    method: str,
    ownership: str,
    workers: int | None,
    pool: Pool | None,
    progress: Callable[[int, int], None] | None,
) -> CopyReport:
    """Make ``path`` the same tree as the layer at ``parent``, which may be removed meanwhile.

    Raises:
        CopyError: something failed; what was made stays for the caller to delete.
        LayerError: the parent was removed before its clone was complete.
    """
    from reflayer.copy import copy_tree

    held = _hold(parent)
    try:
        report = copy_tree(
            parent,
            path,
            method=method,
            ownership=ownership,
            workers=workers,
            pool=pool,
            progress=progress,
        )
        # Its own deletion may have emptied folders before they were read. It begins with a rename,
        # and while we hold the folder open, no other one can have its inode number.
        if not _is_at(held, parent):
            raise _gone(parent)
        return report
    finally:
        os.close(held)


def _hold(parent: str) -> int:
    try:
        return os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _gone(parent) from error
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(parent), "open") from error


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _gone(parent: str) -> LayerError:
    return LayerError(f"layer {os.path.basename(parent)} was removed while it was being cloned")
