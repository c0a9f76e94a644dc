"""The tree of a difference: made at ``dir/ID`` when somebody asks for it, and dropped behind him.

While a difference has one, ``trees/BOOT/ID`` is there: it was not written out, so that after the
boot nobody knows how much of it there is. Who uses a tree shares a lock on the difference's own
folder (flock(2)); who makes or drops it has that lock alone. So of many who ask at once one makes
it, in whichever threads and processes, and nobody drops what another one holds.

A difference that nobody has filled yet becomes whole for good: who asks for its tree will write
into it, as Docker does with layers that it does not unpack. So does one that what it lies on is to
be removed from (``make_whole``).
"""

from __future__ import annotations

import _thread
import os
import stat
import time
from contextlib import suppress

from reflayer.driver import spares
from reflayer.driver.clone_times import boot_id, clone_details, forget, keeping, note
from reflayer.driver.differences import (
    children,
    difference_path,
    forget_child,
    forget_children,
    is_difference,
    is_empty,
    lower,
    require,
    stack,
    upper_path,
)
from reflayer.driver.home import (
    CHANGING,
    TREES,
    has_labels,
    has_tree,
    layer_path,
    naming,
    opened,
    unlink,
    write_out,
)
from reflayer.driver.maps import forget_map
from reflayer.driver.trash import delete_trash, discard
from reflayer.errors import LayerError, OperationError, failing
from reflayer.workers.lock import flock, is_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.home import Making

_PAUSE = 0.002  # seconds
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def hold(home: str, id: str, making: Making) -> int | None:
    """Have the tree of layer ``id`` there while the descriptor that is returned is open.

    Returns:
        The descriptor; None for a whole layer, whose tree is there anyway.

    Raises:
        LayerError: there is no such layer, or one that it lies on is missing.
        CopyError, OperationError: the tree cannot be made.
    """
    while True:
        fd = _open(home, id)
        if fd is None:
            if not is_difference(home, id):
                require(home, id)
                return None
            continue
        is_held = False
        try:
            with failing(upper_path(home, id), "flock"):
                flock(fd, shared=True)
                if _has_all(home, id):
                    is_held = is_at(upper_path(home, id), fd)
                elif not flock(fd, wait=False):
                    # Nobody waits to have it alone: who makes it or looks at it lets go of it, but
                    # who has got the tree meanwhile keeps his share.
                    time.sleep(_PAUSE)
                elif is_at(upper_path(home, id), fd) and not _has_all(home, id):
                    _make(home, id, fd, making)
        finally:
            if not is_held:
                os.close(fd)
        if is_held:
            return fd


def let_go(home: str, id: str, fd: int, *, drop: bool) -> bool:
    """Close what ``hold`` returned; ``drop`` the tree if nobody else holds it. Whether it was."""
    try:
        return drop and _drop(home, id, fd)
    finally:
        os.close(fd)


def set_mark(home: str, id: str) -> None:
    """Note, within ``naming``, that what is there of layer ``id`` beside its difference is a tree.

    Should this process die before it is so, or no more, the tree is dropped.
    """
    mark = _mark(home, id)
    os.makedirs(os.path.dirname(mark), 0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.mknod(mark, stat.S_IFREG | 0o600)


def clear_mark(home: str, id: str) -> None:
    """Take the note away."""
    unlink(_mark(home, id))


def make_whole(home: str, id: str, making: Making) -> None:
    """Let layer ``id`` be whole, written out to disk.

    Raises:
        LayerError: there is no such layer, or one that it lies on is missing.
        CopyError, OperationError: its tree cannot be made. It is a difference still.
    """
    fd = hold(home, id, making)
    if fd is None:
        return
    try:
        with opened(layer_path(home, id)) as folder:
            write_out(folder, layer_path(home, id))
        with naming(home):
            if is_at(upper_path(home, id), fd):  # else another one did it, or removed it
                _become_whole(home, id)
    finally:
        os.close(fd)


def withdraw(home: str, id: str, *, to: str | None = None) -> list[str] | None:
    """Move layer ``id`` to the trash, its spares and its tree first; None if others lie on it.

    Its tree is moved ``to`` a path on the same file system instead, if there is one, and it can be.

    Returns:
        The paths in the trash.
    """
    with naming(home):
        if children(home, id):
            return None
        parent = lower(home, id)
        forget(home, id)
        paths = (
            spares.end(home, id),
            _moved(layer_path(home, id), to, home),
            discard(difference_path(home, id), home),
        )
        clear_mark(home, id)
        forget_map(home, id)
        unlink(f"{home}/{CHANGING}/{id}")
        forget_children(home, id)
        if parent is not None:
            forget_child(home, parent, id)
    return [path for path in paths if path is not None]


def _moved(tree: str, to: str | None, home: str) -> str | None:
    if to is not None:
        with suppress(OSError):
            os.rename(tree, to)
            return None
    return discard(tree, home)


def drop_trees(home: str, *, earlier: bool = False) -> None:
    """Drop all trees that nobody holds, or only those of an ``earlier`` boot."""
    for boot in _names(f"{home}/{TREES}"):
        if earlier and boot == (boot_id() or "unknown"):
            continue
        for id in _names(f"{home}/{TREES}/{boot}"):
            fd = _open(home, id)
            if fd is not None:
                let_go(home, id, fd, drop=True)
            with naming(home):
                if not has_tree(home, id) or not is_difference(home, id):
                    unlink(f"{home}/{TREES}/{boot}/{id}")
        if earlier:
            with suppress(OSError):
                os.rmdir(f"{home}/{TREES}/{boot}")


class References:
    """The layers whose trees this process was asked to have there, and how many times each."""

    def __init__(self, home: str, making: Making) -> None:
        self._home = home
        self._making = making
        self._lock = _thread.allocate_lock()
        self._held: dict[str, tuple[int, int | None]] = {}

    def count(self, id: str) -> int:
        """How often layer ``id`` is referenced."""
        return self._held.get(id, (0, None))[0]

    def take(self, id: str) -> None:
        """Have the tree of layer ``id`` there until as many calls of ``give_back``."""
        fd = hold(self._home, id, self._making)
        with self._lock:
            count, before = self._held.get(id, (0, None))
            self._held[id] = count + 1, fd
        if before is not None:  # of a layer that may have been removed and made anew by others
            os.close(before)

    def give_back(self, id: str) -> int | None:
        """Give back a reference; after the last one what ``let_go`` takes, if that is something."""
        with self._lock:
            count, fd = self._held.pop(id, (0, None))
            if count > 1:
                self._held[id] = count - 1, fd
                return None
        return fd

    def forget(self, id: str) -> None:
        """Layer ``id`` goes: nor has the next one of that id any references."""
        with self._lock:
            _, fd = self._held.pop(id, (0, None))
        if fd is not None:
            os.close(fd)


def _has_all(home: str, id: str) -> bool:
    """Whether the difference ``id`` has a tree of which all is there.

    That of one that nobody has filled is none: a process died just before it was the layer.
    """
    is_made = os.path.lexists(_mark(home, id)) and has_tree(home, id)
    return is_made and not is_empty(difference_path(home, id))


def _make(home: str, id: str, fd: int, making: Making) -> None:
    """Make the tree of the difference ``id``, whose own folder is open and locked as ``fd``."""
    like = lower(home, id) if is_empty(difference_path(home, id)) else id
    if like is None or has_labels() or not spares.use(home, like):
        _make_clone(home, id, fd, making)
        return
    from reflayer.driver.fill import fill_behind

    try:
        if not _take_spare(home, id, fd, like, making):
            _make_clone(home, id, fd, making)
    finally:
        fill_behind(home, like)


def _make_clone(home: str, id: str, fd: int, making: Making) -> None:
    from reflayer.copy.folder import folder_key
    from reflayer.driver.clone import clone
    from reflayer.driver.create import building, copy_label

    parent = lower(home, id)
    is_for_good = is_empty(difference_path(home, id))
    with building(home, id) as path:
        folders: list[int] = []
        report = clone(home, id, path, making, folders=folders)
        copy_label(upper_path(home, id), path)
        noted = None
        if is_for_good and parent is not None and report.method != "snapshot":
            # In the parent's stack each layer is one higher. Somebody may have changed the root.
            folders[::2] = [key - folder_key(1, 0) for key in folders[::2]]
            top = os.fsdecode(stack(home, parent).paths[0])
            is_plain = _root(top) == _root(upper_path(home, id))
            details = clone_details(spares.key(making), folders) if is_plain else ""
            noted = note(home, path, parent, details)
        with keeping(noted, id), failing(layer_path(home, id), "rename"), naming(home):
            if not is_at(upper_path(home, id), fd):
                raise LayerError(f"layer {id} was removed while its tree was being made")
            discard(layer_path(home, id), home)  # one that a crash has left
            set_mark(home, id)
            os.rename(path, layer_path(home, id))
            trash = _become_whole(home, id) if is_for_good else None
        if trash is not None:
            delete_trash(trash)  # it is empty


def _take_spare(home: str, id: str, fd: int, like: str, making: Making) -> bool:
    """Let a spare of the layer ``like`` be the tree of the difference ``id``.

    An empty difference on that layer becomes whole with it.
    """
    trash = None
    with failing(layer_path(home, id), "rename"), naming(home):
        spare = spares.find(home, like, making)
        if spare is None or not is_at(upper_path(home, id), fd):
            return False
        if _root(spare) != _root(upper_path(home, id)):
            return False  # somebody has changed it
        discard(layer_path(home, id), home)  # one that a crash has left
        set_mark(home, id)
        if like == id:
            os.rename(spare, layer_path(home, id))
            unlink(spares.note_of(spare))
        else:
            spares.hand_out(home, spare, id)
            trash = _become_whole(home, id)
    if trash is not None:
        delete_trash(trash)
    return True


def _root(path: str) -> tuple[object, ...]:
    """What a folder has itself, but for what a rename changes."""
    status = os.lstat(path)
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, attributes


def _become_whole(home: str, id: str) -> str | None:
    """Let the tree of the difference ``id`` be the layer; within ``naming``.

    Returns:
        Where in the trash the difference is.
    """
    parent = lower(home, id)
    trash = discard(difference_path(home, id), home)
    if parent is not None:
        forget_child(home, parent, id)
    clear_mark(home, id)
    return trash


def _drop(home: str, id: str, fd: int) -> bool:
    from reflayer.walk.mounts import refuse_mounts_at

    tree = layer_path(home, id)
    try:
        refuse_mounts_at(os.fsencode(tree), os.fsencode(tree))
    except OperationError:
        return False
    with naming(home):
        if not is_at(upper_path(home, id), fd) or not flock(fd, wait=False):
            return False
        discard(tree, home)
        clear_mark(home, id)
    return True


def _open(home: str, id: str) -> int | None:
    """The own folder of the difference ``id``, open; None where there is none."""
    path = upper_path(home, id)
    with failing(path, "open"), suppress(FileNotFoundError):
        return os.open(path, _FOLDER)
    return None


def _mark(home: str, id: str) -> str:
    return f"{home}/{TREES}/{boot_id() or 'unknown'}/{id}"


def _names(folder: str) -> list[str]:
    with failing(folder, "list"), suppress(FileNotFoundError):
        return os.listdir(folder)
    return []
