"""A new layer: claimed and made in ``tmp/``, empty or a clone, and published whole, or gone.

How a clone is made: on btrfs a layer is a subvolume, and ``auto`` takes a snapshot where one loses
nothing, else what ``copy_tree`` finds to be the best. A method that is named is taken, or the clone
fails.

What is needed for that is imported when a layer is made: a removal does not wait for it.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager

from reflayer.driver.clone_times import keeping, note
from reflayer.driver.home import (
    BUILDS,
    LAYERS,
    PUBLISH_LOCK,
    layer_path,
    opened,
    taken,
    write_out,
    writing_back,
)
from reflayer.driver.trash import delete
from reflayer.errors import CopyError, LayerError, OperationError, failing
from reflayer.record import record
from reflayer.workers.lock import claim_new, is_at, locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.copy import CopyReport
    from reflayer.progress import Progress

METHODS = ("auto", "snapshot", "reflink", "range", "stream", "tar")
"""The names of the methods that a driver takes."""

_NO_SUBVOLUMES = frozenset({errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_NO_SNAPSHOT = frozenset({errno.EXDEV, errno.EPERM, errno.EINVAL})
_CONTENT = b"content\n" * 512  # one block: a smaller file might be kept without any
_AT_FDCWD = -100  # fcntl.h: paths from the current folder
_SELINUX = "/sys/fs/selinux/enforce"  # there where the kernel has SELinux enabled


@record
class Making:
    """How the layers of a home are made; ``owner`` is that of the root of an empty one."""

    method: str
    ownership: str
    workers: int | None
    owner: tuple[int, int] | None


@contextmanager
def new_layer(
    home: str,
    id: str,
    parent: str | None,
    making: Making,
    *,
    size: int = 0,
    label: str = "",
    progress: Progress | None = None,
    durable: bool = False,
) -> Iterator[tuple[str, CopyReport | None]]:
    """Make a clone of ``parent``, or an empty folder; publish it as ``id`` after the block.

    It may take ``size`` bytes, or with 0 any number. ``label`` is the SELinux label of its root. If
    it is to be ``durable``, it is written out to disk before it is published.

    Yields:
        The path, and the report if it is a clone.

    Raises:
        LayerError: there is a layer ``id`` already, or ``parent`` was removed.
        CopyError, OperationError: a step failed. Nothing is left.
    """
    with building(home, id) as path, opened(f"{home}/{LAYERS}", follow=True) as folder:
        noted = report = None
        if parent is None:
            _make_empty(path, making)
            _limit(path, size, home)
        else:
            report = _clone(home, parent, path, making, size, progress)
        if label:
            set_label(path, label)
        # The inodes of a snapshot tell themselves that they are the same.
        if parent is not None and report is not None and report.method != "snapshot":
            noted = note(home, path, parent)
        with keeping(noted, id):
            yield path, report
            publish(path, home, id, folder if durable else None)


@contextmanager
def changing_layer(home: str, id: str) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Let the block fill layer ``id``, which then appears anew, written out to disk.

    It goes back to where layers are made meanwhile: so a crash or failure amid that leaves none, as
    it leaves none of those that are being made.

    Yields:
        The layer's path meanwhile, and what ``writing_back`` yields.
    """
    layer = layer_path(home, id)
    with building(home, id) as path, opened(f"{home}/{LAYERS}", follow=True) as folder:
        with failing(layer, "rename"):
            try:
                os.rename(layer, path)
            except FileNotFoundError as error:
                raise LayerError(f"there is no layer {id}") from error
        with writing_back(path) as come_to:
            yield path, come_to
        publish(path, home, id, folder)


@contextmanager
def building(home: str, id: str) -> Iterator[str]:
    """A path in ``tmp/`` for the block to make ``id`` at, and to move away from.

    If the block raises, what is there is deleted. After the death of this process it is left to
    ``recover``.
    """
    claim = claim_new(f"{home}/{BUILDS}", id)
    try:
        yield claim.path
    except BaseException as error:
        try:
            delete(claim.path)
        except OperationError as failed:
            error.add_note(f"it was left for the next start to clear: {failed}")
        raise
    finally:
        claim.release()


def publish(path: str, home: str, id: str, folder: int | None = None) -> None:
    """Let the complete folder ``path`` appear as layer ``id``, which must not be there.

    Both are written out to disk if ``folder`` is given: ``dir/``, open since before ``path`` was
    made.

    Raises:
        LayerError: there is a layer of that id already.
        OperationError: the rename failed, or something could not be written.
    """
    from reflayer.linux.libc import RENAME_NOREPLACE, renameat2

    layer = layer_path(home, id)
    if folder is not None:
        write_out(folder, path)
    with failing(layer, "rename"):
        try:
            renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(layer), RENAME_NOREPLACE)
        except FileExistsError as error:
            raise taken(id) from error
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            # rename(2) replaces an empty folder, and this file system knows no RENAME_NOREPLACE.
            # All reflayer processes meet here then, so looking first is safe under a lock.
            with locked(f"{home}/{PUBLISH_LOCK}"):
                if os.path.lexists(layer):
                    raise taken(id) from error
                os.rename(path, layer)
    if folder is not None:
        with failing(layer, "fsync"):
            os.fsync(folder)


def _make_folder(path: str) -> bool:
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


def _make_empty(path: str, making: Making) -> None:
    with failing(path, "mkdir"):
        if not _make_folder(path) and making.method == "snapshot":
            raise _no_snapshot(path, "there are no btrfs subvolumes here")
        if making.owner is not None:
            os.chown(path, *making.owner)
        os.chmod(path, 0o755)


def _limit(path: str, size: int, home: str) -> None:
    if size:
        from reflayer.driver.quota import set_quota

        set_quota(path, size, home)


def _clone(
    home: str, id: str, path: str, making: Making, size: int, progress: Progress | None
) -> CopyReport:
    """Make ``path`` the same tree as layer ``id``, which may be removed meanwhile."""
    parent = layer_path(home, id)
    method = making.method
    gone = LayerError(f"layer {id} was removed while it was being cloned")
    with failing(parent, "open"):
        try:
            held = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise gone from error
    try:
        report = None
        if method in ("auto", "snapshot"):
            started = time.monotonic()
            with failing(path, "snapshot", CopyError):
                refusal = _snapshot(held, path)
            if refusal is None:
                from reflayer.copy.report import CopyReport

                report = CopyReport("snapshot", {}, {}, {}, time.monotonic() - started)
                if progress is not None:
                    progress("clone", 0, None)  # the last moment to abandon it
            elif method == "snapshot":
                raise _no_snapshot(path, refusal)
        if report is None:
            with failing(path, "mkdir", CopyError):
                _make_folder(path)
            _limit(path, size, home)
            from reflayer.archive.methods import copy_tree

            report = copy_tree(
                parent,
                path,
                method=method,
                ownership=making.ownership,
                workers=making.workers,
                progress=progress,
            )
        # Its own deletion may have emptied folders before they were read. It begins with a rename,
        # and while we hold the folder open, no other one can have its inode number.
        if not is_at(parent, held):
            raise gone
    except CopyError as error:
        if not is_at(parent, held):
            raise gone from error
        raise
    finally:
        os.close(held)
    return report


def set_label(path: str, label: str) -> None:
    """Label the folder ``path`` where the kernel has SELinux enabled and the file system labels.

    What a container may do with its files is told by their labels (selinux(8)); what is made in the
    folder later gets its label from it.
    """
    if not os.path.exists(_SELINUX):
        return
    with failing(path, "label"):
        try:
            os.setxattr(path, "security.selinux", os.fsencode(label) + b"\0", follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise


def status(home: str, method: str) -> dict[str, str]:
    """The ``Backing Filesystem``, the ``Method`` that ``auto`` or ``method`` is, ``Shared Blocks``.

    Which method a clone takes in this home is found out by making one.
    """
    from reflayer.linux.statfs import file_system_name

    builds = f"{home}/{BUILDS}"
    with opened(builds, follow=True) as folder, failing(builds, "statfs"):
        file_system = file_system_name(folder)
    found = _best_method(home) if method == "auto" else method
    shares = "true" if found in ("snapshot", "reflink") else "false"
    return {"Backing Filesystem": file_system, "Method": found, "Shared Blocks": shares}


def _best_method(home: str) -> str:
    from reflayer.copy.method import best_method

    with building(home, "probe") as path:
        try:
            with failing(path, "try it"):
                _make_folder(path)
                with open(f"{path}/file", "wb") as file:
                    file.write(_CONTENT)
                with opened(path) as folder:
                    if _snapshot(folder, f"{path}/clone") is None:
                        return "snapshot"
                    return best_method(folder, folder)
        finally:
            delete(path)


def _snapshot(source: int, path: str) -> str | None:
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


def _no_snapshot(path: str, reason: str) -> CopyError:
    return CopyError(path, "snapshot", f"{reason}: use another method or auto")
