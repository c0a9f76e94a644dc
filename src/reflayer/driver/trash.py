"""Removal: a layer is moved to ``trash/`` at once, and then deleted by the remover or behind it.

One process at a time empties the trash behind. It holds ``trash.lock``, and looks again when it has
let go of it: so what is put there meanwhile needs no process of its own. Each entry is locked while
it is deleted: so no process is started for what is being deleted already.

It steps back for others. Who waits for the end has no use of that: a folder that it locks, and then
loses the processor, holds up both. So who waits deletes all by himself, and shares the lock of the
trash's folder meanwhile; the process behind leaves him a second before it begins, and waits for him
between two entries.
"""

from __future__ import annotations

import errno
import os
import time

from reflayer.driver.home import TRASH, TRASH_LOCK, opened, unlink
from reflayer.errors import NO_ROOM, OperationError, failing
from reflayer.workers import behind
from reflayer.workers.lock import flock, open_locked, passing_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_IN_MOTION = frozenset({errno.ENOTEMPTY, errno.ENOENT, errno.ESTALE})  # others are at work in it
_TRIES = 100
_PAUSE = 0.02  # seconds
_LATER = 1.0  # seconds: by then containerd waits, if it does, for all that it has removed
_NOT_TO_DESTROY = frozenset(  # it is removed as any other folder, or an error tells why not
    {errno.EPERM, errno.EACCES, errno.ENOTEMPTY, errno.EINVAL, errno.ENOTDIR, errno.ENOENT}
    | {errno.ENOTTY, errno.ENOSYS, errno.EOPNOTSUPP}
)
NO_FOLDER_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def discard(path: str, home: str) -> str | None:
    """Move the layer at ``path`` to the trash; return its path there, None if it is gone."""
    trash = f"{home}/{TRASH}/{passing_name(os.path.basename(path))}"
    try:
        try:
            os.rename(path, trash)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # A btrfs subvolume that is read-only, as one that was received is, cannot be moved.
            from reflayer.linux.btrfs import allow_writing

            try:
                with opened(path) as fd:
                    allow_writing(fd)
            except (OSError, OperationError):  # the file system is
                raise error from None
            os.rename(path, trash)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and os.path.isdir(f"{home}/{TRASH}"):
            return None  # another remover was faster, whether or not it is there anew by now
        if error.errno in NO_ROOM:  # btrfs wants megabytes for a rename, and none to delete
            delete_trash(path)
            return None
        raise OperationError.from_os_error(error, path, "remove") from error
    return trash


def delete(path: str) -> None:
    """Delete the folder ``path`` with all in it, which others may be deleting as well."""
    from reflayer.copy.remove import remove_tree
    from reflayer.workers.pool import is_crowded, usable_cpus

    for tries_left in reversed(range(_TRIES)):
        try:
            if not _destroy_subvolume(path):
                remove_tree(path, workers=1 if is_crowded() else usable_cpus())
        except OperationError as error:
            if error.errno not in _IN_MOTION or not tries_left:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _destroy_subvolume(path: str) -> bool:
    """Destroy the btrfs subvolume ``path``; False where that is not what it is, or not allowed."""
    from reflayer.linux.btrfs import SUBVOLUME_INODE, destroy_subvolume

    name = os.fsencode(os.path.basename(path))
    with failing(path, "destroy"), opened(os.path.dirname(path), follow=True) as folder:
        try:
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino != SUBVOLUME_INODE:
                return False
            from reflayer.walk.mounts import refuse_mounts_at

            refuse_mounts_at(name, os.fsencode(path), folder)  # or the kernel would detach them
            destroy_subvolume(folder, name)
        except OSError as error:
            if error.errno not in _NOT_TO_DESTROY:
                raise
            return False
    return True


def delete_trash(path: str, *, wait: bool = True) -> None:
    """Delete ``path`` in the trash; if another is at it, with him, or not without ``wait``."""
    with failing(path, "open"):
        try:
            fd = os.open(path, _FOLDER)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            unlink(path)
            return
        except PermissionError:  # its owner may delete it all the same
            delete(path)
            return
    try:
        if _lock(fd, path) or wait:
            delete(path)
    finally:
        os.close(fd)


def empty_trash(home: str) -> None:
    """Return when all that is in the trash of ``home`` by now is deleted.

    Raises:
        OperationError: the first thing that could not be deleted; everything else has been.
    """
    failed = None
    trash = f"{home}/{TRASH}"
    with opened(trash) as folder:
        _lock(folder, trash, shared=True, wait=True)
        for path in reversed(_in_trash(home)):  # who does so behind begins with the first
            try:
                delete_trash(path)
            except OperationError as error:
                failed = error
    if failed is not None:
        raise failed


def empty_later(home: str, turn: int) -> None:
    """``empty_behind`` after a while, since who removes a lot may wait for it all in the end."""
    time.sleep(_LATER)
    empty_behind(home, turn)


def empty_behind(home: str, turn: int) -> None:
    """Delete all in the trash of ``home`` until it is empty, but for what others delete.

    ``turn`` is a descriptor that holds the lock of the trash; it is closed here.

    Raises:
        OperationError: the first thing that could not be deleted; everything else has been.
    """
    failed: dict[str, OperationError] = {}
    lock: int | None = turn
    while lock is not None:
        try:
            while paths := left_in_trash(home, failed):
                for path in paths:
                    _let_pass(home)
                    try:
                        delete_trash(path, wait=False)
                    except OperationError as error:
                        failed[path] = error
        finally:
            os.close(lock)
        # What was discarded while this was locked was left to us. So look again after unlocking.
        more = left_in_trash(home, failed)
        lock = open_locked(f"{home}/{TRASH_LOCK}", wait=False) if more else None
    for first in failed.values():
        raise first


def delete_behind(home: str) -> None:
    """Let another process delete all in the trash of ``home``, and return at once."""
    turn = open_locked(f"{home}/{TRASH_LOCK}", wait=False)
    if turn is None:  # another process has it, and will see what was put there before now
        return
    try:
        behind.start(__name__, "empty_later", home, turn)
    except OSError:
        empty_behind(home, turn)  # it takes longer here, but the space has to come back


def left_in_trash(home: str, failed: Container[str] = ()) -> list[str]:
    """What is in the trash and not being deleted, but for what ``failed``: their paths."""
    return [path for path in _in_trash(home) if path not in failed and _is_left(path)]


def _let_pass(home: str) -> None:
    """Return when nobody waits for the trash to be empty."""
    trash = f"{home}/{TRASH}"
    with opened(trash) as folder:
        _lock(folder, trash, wait=True)


def _in_trash(home: str) -> list[str]:
    trash = f"{home}/{TRASH}"
    with failing(trash, "list"):
        names = sorted(os.listdir(trash))
    # NFS keeps what is unlinked while it is open as .nfs...
    return [f"{trash}/{name}" for name in names if not name.startswith(".nfs")]


def _is_left(path: str) -> bool:
    try:
        fd = os.open(path, _FOLDER)
    except OSError as error:
        return error.errno != errno.ENOENT
    try:
        # Shared: a process that only looks is not taken for one that deletes.
        return _lock(fd, path, shared=True)
    finally:
        os.close(fd)


def _lock(folder: int, path: str, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock the open ``folder`` against others that would delete it; whether that was had."""
    with failing(path, "flock"):
        try:
            return flock(folder, shared=shared, wait=wait)
        except OSError as error:
            # NFS locks no folders: two may then delete the same tree, which only takes longer.
            if error.errno not in NO_FOLDER_LOCKS:
                raise
    return True
