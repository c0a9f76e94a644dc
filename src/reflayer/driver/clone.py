"""A layer's folder, new: empty, or a clone of its parent.

What makes one is imported when one is made: who only removes does not wait for it.
"""

from __future__ import annotations

import os
import time

from reflayer.errors import CopyError, LayerError, OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy import CopyReport
    from reflayer.progress import Progress


METHODS = ("auto", "snapshot", "reflink", "range", "stream", "tar")
"""The names of the methods that a driver takes."""


def empty_layer(path: str, method: str, owner: tuple[int, int] | None) -> None:
    """Make the empty folder ``path``, mode 0755: a subvolume where there are such.

    Args:
        path: where.
        method: the driver's.
        owner: user and group, if not those of this process.

    Raises:
        CopyError: ``method`` is ``snapshot``, but there are no subvolumes here.
        OperationError: it cannot be made.
    """
    from reflayer.driver.snapshot import make_subvolume

    try:
        if not make_subvolume(path):
            if method == "snapshot":
                raise _no_snapshot(path, "there are no btrfs subvolumes here")
            os.mkdir(path, 0o700)
        if owner is not None:
            os.chown(path, *owner)
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
    progress: Progress | None,
    prepare: Callable[[str], None],
) -> CopyReport:
    """Make ``path`` the same tree as the layer at ``parent``, which may be removed meanwhile.

    A folder that is to be copied into is given to ``prepare`` first.

    Raises:
        CopyError: something failed; what was made stays for the caller to delete.
        LayerError: the parent was removed before its clone was complete.
        OperationError: the parent cannot be opened.
    """
    held = _hold(parent)
    try:
        report = None
        if method in ("auto", "snapshot"):
            report = _snapshot(held, path, named=method == "snapshot")
            if report is not None and progress is not None:
                progress("clone", 0, None)  # the last moment to abandon it
        if report is None:
            _begin(path)
            prepare(path)
            from reflayer.archive.methods import copy_tree

            report = copy_tree(
                parent,
                path,
                method=method,
                ownership=ownership,
                workers=workers,
                progress=progress,
            )
        # Its own deletion may have emptied folders before they were read. It begins with a rename,
        # and while we hold the folder open, no other one can have its inode number.
        if not _is_at(held, parent):
            raise _gone(parent)
    except CopyError as error:
        if not _is_at(held, parent):
            raise _gone(parent) from error
        raise
    finally:
        os.close(held)
    return report


def _snapshot(parent: int, path: str, *, named: bool) -> CopyReport | None:
    """The report of a snapshot; None where a copy has to do, unless it was ``named``."""
    from reflayer.driver.snapshot import snapshot

    started = time.monotonic()
    try:
        refusal = snapshot(parent, path)
    except OSError as error:
        raise CopyError.from_os_error(error, os.fsencode(path), "snapshot") from error
    if refusal is None:
        from reflayer.copy.report import CopyReport

        return CopyReport("snapshot", {}, {}, {}, time.monotonic() - started)
    if named:
        raise _no_snapshot(path, refusal)
    return None


def _begin(path: str) -> None:
    try:
        make_folder(path)
    except OSError as error:
        raise CopyError.from_os_error(error, os.fsencode(path), "mkdir") from error


def make_folder(path: str) -> None:
    """Make the empty folder ``path``, for the owner alone: a subvolume where there are such.

    Raises:
        OSError: it cannot be made.
    """
    from reflayer.driver.snapshot import make_subvolume

    if make_subvolume(path):
        os.chmod(path, 0o700)
    else:
        os.mkdir(path, 0o700)


def _no_snapshot(path: str, reason: str) -> CopyError:
    return CopyError(os.fsencode(path), "snapshot", f"{reason}: use another method or auto")


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
