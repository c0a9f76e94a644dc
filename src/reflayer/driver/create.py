"""A new layer: claimed and made in ``tmp/``, empty or a clone, and published whole, or gone.

How a clone is made: ``auto`` takes a snapshot where one loses nothing (``snapshot``), else what
``copy_tree`` finds to be the best; a method that is named is taken, or the clone fails.

What is needed for that is imported when a layer is made: a removal does not wait for it.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager

from reflayer.driver.clone_times import keeping, note
from reflayer.driver.home import BUILDS, LAYERS, PUBLISH_LOCK, layer_path, taken
from reflayer.driver.sync import opened, write_name, write_out, writing_back
from reflayer.driver.trash import delete
from reflayer.errors import CopyError, LayerError, OperationError, failing
from reflayer.workers.lock import claim_new, locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.copy import CopyReport
    from reflayer.progress import Progress

METHODS = ("auto", "snapshot", "reflink", "range", "stream", "tar")
"""The names of the methods that a driver takes."""

_AT_FDCWD = -100  # fcntl.h: paths from the current folder
_SELINUX = "/sys/fs/selinux/enforce"  # there where the kernel has SELinux enabled


@contextmanager
def new_layer(
    home: str,
    id: str,
    fill: Callable[[str], CopyReport | None],
    parent: str | None,
    *,
    durable: bool = False,
) -> Iterator[tuple[str, CopyReport | None]]:
    """Make a folder for layer ``id``, let the block change it, and publish it after that.

    Args:
        home: the home.
        id: the layer.
        fill: makes the folder at a path; returns the report if it is a clone.
        parent: what ``fill`` clones.
        durable: write it out to disk before it is published.

    Raises:
        LayerError: there is a layer of that id already.
        CopyError, OperationError: from ``fill``, or another step failed. Nothing is left.
    """
    with building(home, id) as path, opened(f"{home}/{LAYERS}") as folder:
        report = fill(path)
        record = None
        # The inodes of a snapshot tell themselves that they are the same.
        if parent is not None and report is not None and report.method != "snapshot":
            record = note(home, path, parent)
        with keeping(record, id):
            yield path, report
            if durable:
                write_out(folder, path)
            publish(path, home, id)
        if durable:
            write_name(folder, layer_path(home, id))


@contextmanager
def changing_layer(home: str, id: str) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Let the block fill layer ``id``, which then appears anew, written out to disk.

    It goes back to where layers are made meanwhile: so a crash or failure amid that leaves none, as
    it leaves none of those that are being made.

    Yields:
        The layer's path meanwhile, and what ``writing_back`` yields.

    Raises:
        LayerError: there is no such layer.
        OperationError: a step failed.
    """
    layer = layer_path(home, id)
    with building(home, id) as path, opened(f"{home}/{LAYERS}") as folder:
        try:
            with failing(layer, "rename"):
                os.rename(layer, path)
        except OperationError as error:
            if error.errno == errno.ENOENT:
                raise LayerError(f"there is no layer {id}") from error
            raise
        with writing_back(path) as come_to:
            yield path, come_to
        write_out(folder, path)
        publish(path, home, id)
        write_name(folder, layer)


@contextmanager
def building(home: str, id: str) -> Iterator[str]:
    """A path in ``tmp/`` for the block to make ``id`` at, and to move away from.

    If the block raises, what is there is deleted. After the death of this process it is left to
    ``recover``.

    Raises:
        OperationError: the claim cannot be made.
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


def publish(path: str, home: str, id: str) -> None:
    """Let the complete folder ``path`` appear as layer ``id``, which must not be there.

    Raises:
        LayerError: there is a layer of that id already.
        OperationError: the rename failed.
    """
    from reflayer.linux.renameat2 import RENAME_NOREPLACE, renameat2

    layer = layer_path(home, id)
    try:
        try:
            renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(layer), RENAME_NOREPLACE)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            # rename(2) replaces an empty folder, and this file system knows no RENAME_NOREPLACE.
            # All reflayer processes meet here then, so looking first is safe under a lock.
            with locked(f"{home}/{PUBLISH_LOCK}"):
                if os.path.lexists(layer):
                    raise taken(id) from error
                os.rename(path, layer)
    except FileExistsError as error:
        raise taken(id) from error
    except OSError as error:
        raise OperationError.from_os_error(error, layer, "rename") from error


def make_folder(path: str) -> bool:
    """Make the empty folder ``path``, for the owner alone; True for a subvolume, if there are such.

    Raises:
        OSError: it cannot be made.
    """
    from reflayer.driver.snapshot import make_subvolume

    if make_subvolume(path):
        os.chmod(path, 0o700)
        return True
    os.mkdir(path, 0o700)
    return False


def empty_layer(path: str, method: str, owner: tuple[int, int] | None) -> None:
    """Make the empty folder ``path``, mode 0755, of ``owner`` if not of this process.

    Raises:
        CopyError: ``method`` is ``snapshot``, but there are no subvolumes here.
        OperationError: it cannot be made.
    """
    with failing(path, "mkdir"):
        if not make_folder(path) and method == "snapshot":
            raise _no_snapshot(path, "there are no btrfs subvolumes here")
        if owner is not None:
            os.chown(path, *owner)
        os.chmod(path, 0o755)


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
            report = _snapshot(held, path, is_named=method == "snapshot")
            if report is not None and progress is not None:
                progress("clone", 0, None)  # the last moment to abandon it
        if report is None:
            with failing(path, "mkdir", CopyError):
                make_folder(path)
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


def set_label(path: str, label: str) -> None:
    """Label the folder ``path`` where the kernel has SELinux enabled and the file system labels.

    What a container may do with its files is told by their labels (selinux(8)); what is made in the
    folder later gets its label from it.

    Raises:
        OperationError: it cannot be labelled.
    """
    if not os.path.exists(_SELINUX):
        return
    try:
        os.setxattr(path, "security.selinux", os.fsencode(label) + b"\0", follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise OperationError.from_os_error(error, path, "label") from error


def _snapshot(parent: int, path: str, *, is_named: bool) -> CopyReport | None:
    """The report of a snapshot; None where a copy has to do, unless it was named."""
    from reflayer.driver.snapshot import snapshot

    started = time.monotonic()
    with failing(path, "snapshot", CopyError):
        refusal = snapshot(parent, path)
    if refusal is None:
        from reflayer.copy.report import CopyReport

        return CopyReport("snapshot", {}, {}, {}, time.monotonic() - started)
    if is_named:
        raise _no_snapshot(path, refusal)
    return None


def _no_snapshot(path: str, reason: str) -> CopyError:
    return CopyError(path, "snapshot", f"{reason}: use another method or auto")


def _hold(parent: str) -> int:
    try:
        return os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _gone(parent) from error
    except OSError as error:
        raise OperationError.from_os_error(error, parent, "open") from error


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _gone(parent: str) -> LayerError:
    return LayerError(f"layer {os.path.basename(parent)} was removed while it was being cloned")
