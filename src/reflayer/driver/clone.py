"""How a layer is cloned: the union of its stack, copied; or, on btrfs, a snapshot of its folder.

There a whole layer is a subvolume, and ``auto`` takes a snapshot where one loses nothing, else what
``copy_tree`` finds to be the best. A method that is named is taken, or the clone fails.

What is needed for that is imported when a layer is cloned: a removal does not wait for it.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack

from reflayer.driver.differences import is_there, stack
from reflayer.driver.home import opened
from reflayer.driver.trash import delete
from reflayer.errors import CopyError, LayerError, failing
from reflayer.workers.lock import is_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy import CopyReport
    from reflayer.driver.home import Making
    from reflayer.progress import Progress
    from reflayer.walk.stack import Stack

METHODS = ("auto", "snapshot", "reflink", "range", "stream", "tar")
"""The names of the methods that a driver takes."""

_NO_SUBVOLUMES = frozenset({errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_NO_SNAPSHOT = frozenset({errno.EXDEV, errno.EPERM, errno.EINVAL})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clone(
    home: str,
    id: str,
    path: str,
    making: Making,
    *,
    size: int = 0,
    progress: Progress | None = None,
    folders: list[int] | None = None,
) -> CopyReport:
    """Make ``path`` the same tree as layer ``id``, of whose stack a layer may go meanwhile.

    It may take ``size`` bytes, or with 0 any number. ``folders`` is as ``copy_tree`` takes it.

    Raises:
        LayerError: the layer was removed.
        CopyError: a step failed; what is at ``path`` then is the caller's.
    """
    while True:
        layers = stack(home, id, making.id_map)
        held: list[int] = []
        failed = report = None
        with ExitStack() as until:
            try:
                for layer in layers.paths:
                    with failing(layer, "open", CopyError):
                        held.append(os.open(layer, _FOLDER))
                    until.callback(os.close, held[-1])
                report = _clone(layers, held[-1], path, making, size, home, progress, folders)
            except CopyError as error:
                failed = error
            if _are_there(layers, held):
                if report is None:
                    assert failed is not None
                    raise failed
                return report
        if not is_there(home, id):
            raise LayerError(f"layer {id} was removed while it was being cloned") from failed
        delete(path)  # a layer of the stack has become whole: once more
        if folders is not None:
            folders.clear()


def _are_there(layers: Stack, held: list[int]) -> bool:
    # Its own deletion may have emptied folders before they were read. It begins with a rename, and
    # while we hold a folder open, no other one can have its inode number.
    return all(
        is_at(os.fsdecode(path), held[at]) if at < len(held) else os.path.lexists(path)
        for at, path in enumerate(layers.paths)
    )


def _clone(
    layers: Stack,
    whole: int,
    path: str,
    making: Making,
    size: int,
    home: str,
    progress: Progress | None,
    folders: list[int] | None,
) -> CopyReport:
    """Clone the stack, whose lowest layer is open as ``whole``."""
    if making.method in ("auto", "snapshot"):
        started = time.monotonic()
        with failing(path, "snapshot", CopyError):
            refusal: str | None = "it is a difference"
            if not layers.differences:
                refusal = snapshot(whole, path) if layers.ids is None else "its owners are mapped"
        if refusal is None:
            from reflayer.copy.report import CopyReport

            if progress is not None:
                progress("clone", 0, None)  # the last moment to abandon it
            return CopyReport("snapshot", {}, {}, {}, time.monotonic() - started)
        if making.method == "snapshot":
            raise no_snapshot(path, refusal)
    with failing(path, "mkdir", CopyError):
        make_folder(path)
    limit(path, size, home)
    from reflayer.archive.methods import copy_tree

    return copy_tree(
        layers if layers.differences or layers.ids else layers.whole,
        path,
        method=making.method,
        ownership=making.ownership,
        workers=making.workers,
        progress=progress,
        folders=folders,
    )


def make_folder(path: str) -> bool:
    """Make the empty folder ``path``, for the owner alone; whether it is a btrfs subvolume."""
    from reflayer.linux.btrfs import create_subvolume

    is_subvolume = True
    with opened(os.path.dirname(path), follow=True) as folder:
        try:
            create_subvolume(folder, os.fsencode(os.path.basename(path)))
        except OSError as error:
            if error.errno not in _NO_SUBVOLUMES:
                raise
            is_subvolume = False
    if is_subvolume:
        os.chmod(path, 0o700)
    else:
        os.mkdir(path, 0o700)
    return is_subvolume


def limit(path: str, size: int, home: str) -> None:
    """Let all that will be made in the empty folder ``path`` take ``size`` bytes, if not 0."""
    if size:
        from reflayer.driver.quota import set_quota

        set_quota(path, size, home)


def snapshot(source: int, path: str) -> str | None:
    """Make ``path`` a snapshot of the open folder ``source``, or say why it would differ."""
    from reflayer.linux.btrfs import create_snapshot, has_subvolumes, is_subvolume

    if not is_subvolume(source):
        return "the parent is not a btrfs subvolume"
    try:
        if has_subvolumes(source):
            return "a subvolume inside the parent would be missing"
        with opened(os.path.dirname(path), follow=True) as folder:
            create_snapshot(source, folder, os.fsencode(os.path.basename(path)))
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return "this kernel cannot tell whether a subvolume is inside the parent"
        if error.errno in _NO_SNAPSHOT:
            return f"{error.strerror}: the kernel does not let it be made here"
        raise
    return None


def no_snapshot(path: str, reason: str) -> CopyError:
    """The error for a snapshot that is wanted and cannot be."""
    return CopyError(path, "snapshot", f"{reason}: use another method or auto")
