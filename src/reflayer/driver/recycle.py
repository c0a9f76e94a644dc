"""Recycling: what changed in a container is undone, and it is a spare of what it was cloned from.

That is far less work than to delete it all and to clone it all anew, but only right where it can be
proved that nothing but what is undone has changed, and that nobody can change it any more:

- The note of its clone holds (``clone_times``), and the layers were not changed since.
- Times tell of all that happens to a file, but for one thing (below). On tmpfs they do not of a
  store to a mapped one.
- No process has a folder of it, or a file that would stay open or mapped; nothing is mounted in it
  or from it, for any process (``walk.holders``, ``archive.undo``).
- It is as a fresh clone would be made: of the same making, with no quota and no SELinux label.

Where one of these does not hold, it is deleted as any other layer. It is undone in ``tmp/`` under a
claim, where nobody finds it: so what a kill leaves is cleared by the next start. That is done by
who removes it (``remove``), or by what makes spares, for which it waits among them.

One thing no time tells: XFS_IOC_SWAPEXT and EXT4_IOC_MOVE_EXT, made for defragmentation, exchange
what two files have on disk, and whoever may write to both may ask for it. So it is only done for
who trusts what ran in it: ``reflayer rm --recycle``, ``reflayer serve --recycle``.
"""

from __future__ import annotations

import os
import time

from reflayer.driver import spares
from reflayer.driver.clone_times import clone_details, first_clone, is_of, note, note_path
from reflayer.driver.create import building
from reflayer.driver.differences import is_difference, is_there, stack
from reflayer.driver.home import has_labels, layer_path, opened, unlink
from reflayer.driver.room import is_short
from reflayer.driver.trash import discard
from reflayer.errors import ReflayerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reflayer.driver.clone_times import Clone
    from reflayer.driver.home import Making

_PAUSES = (0.002, 0.02)  # seconds
_LONGER = (*_PAUSES, 0.2, 1.0)  # where nobody waits
_NEVER = frozenset({"snapshot", "tar"})  # methods by which no part of a tree is copied


class CannotError(Exception):
    """Why something is deleted instead."""


def recycle_used(
    home: str, layer: str, making: Making, apart: Callable[[Callable[[], None]], None]
) -> bool:
    """Make a spare of ``layer`` of what waits for that; False where nothing does.

    What takes long is done by ``apart``. What cannot be one is in the trash.
    """
    used = spares.next_used(home, layer)
    if used is None:
        return False
    with building(home, layer) as path:
        id, clone = spares.take_used(used, path)
        try:
            if clone is None or clone.made_by != spares.key(making):
                raise CannotError
            make_spare(home, path, id, clone, making, apart, only_wanted=True)
        except CannotError:
            discard(path, home)
    return True


def recyclable(home: str, id: str, making: Making) -> Clone:
    """Of what layer ``id`` is a clone, if it may be recycled by one who makes clones like that."""
    if is_difference(home, id) or making.method in _NEVER or has_labels():
        raise CannotError("it was not copied, or has an SELinux label")
    try:
        clone = first_clone(note_path(home, id), layer_path(home, id))
    except ReflayerError:  # it is gone
        clone = None
    if clone is None:
        raise CannotError("it is not known what it was cloned from, or the clock was set")
    if clone.made_by != spares.key(making):
        raise CannotError("it was made with other settings or by another user")
    if not is_there(home, clone.layer):
        raise CannotError("its image is gone")
    if is_short(home):
        raise CannotError("little of the disk is free")
    return clone


def make_spare(
    home: str,
    path: str,
    id: str,
    clone: Clone,
    making: Making,
    apart: Callable[[Callable[[], None]], None],
    *,
    only_wanted: bool = False,
) -> None:
    """Undo what changed in the folder ``path``, which was that of layer ``id``, and publish it."""
    known = dict(zip(clone.folders[::2], clone.folders[1::2], strict=False))
    try:
        if not is_of(clone, path):
            raise CannotError("others made another one of it")
        told = spares.stamp(home, clone.layer)
        if told is None or not _is_older(told, clone.begun):
            raise CannotError("its image has changed")
        # A look, which does not wait until nobody else wants the processors.
        held = _held(path, id, _LONGER if only_wanted else _PAUSES)
        apart(lambda: _undo(home, path, clone, known, held, making))
        folders = [number for pair in known.items() for number in pair]
        noted = note(home, path, clone.layer, clone_details(clone.made_by, folders), is_late=True)
        if noted is None:
            raise CannotError("times do not tell here what changed")
        if not spares.add(home, clone.layer, path, noted, making, told, only_wanted=only_wanted):
            unlink(noted)
            raise CannotError("no more spares are wanted")
    except ReflayerError as error:
        raise CannotError(str(error)) from error


def _held(path: str, id: str, pauses: Iterable[float]) -> frozenset[int]:
    """The folders that processes have; nobody can change what no process has any more."""
    from reflayer.walk.holders import held_folders

    with opened(path) as folder:
        if _hides_stores(folder):
            raise CannotError("times do not tell here what changed")
        device = os.fstat(folder).st_dev
    names = [f"/{id}{end}" for end in (" ", "/", ",", ":")] + [os.path.basename(path)]
    encoded = [name.encode() for name in names]
    held = held_folders(device, encoded)
    for pause in pauses:
        if held is None:  # descriptors that were on their way may have arrived
            time.sleep(pause)
            held = held_folders(device, encoded)
    if held is None:
        raise CannotError("it cannot be told whether a process still has it")
    return held


def _undo(
    home: str,
    path: str,
    clone: Clone,
    known: dict[int, int],
    held: frozenset[int],
    making: Making,
) -> None:
    from reflayer.archive.undo import undo

    undo(
        path,
        stack(home, clone.layer, making.id_map),
        clone.cloned,
        known=known,
        held=held,
        method=making.method,
        ownership=making.ownership,
        workers=making.workers,
    )


def _is_older(stamp: str, begun: int) -> bool:
    """Whether none of the layers of a stack was changed since then."""
    return all(int(line.split(" ")[1]) < begun for line in stamp.split("\n"))


def _hides_stores(folder: int) -> bool:
    """Whether a store to a mapped file changes no time: tmpfs maps what is read for writing."""
    from reflayer.linux.statfs import file_system_name

    return file_system_name(folder) == "tmpfs"
