"""What a crash leaves in a home, and how the next start clears it.

Killed while it makes a layer, a process leaves ``tmp/NAME`` with its claim, and perhaps a note of
when it was cloned; while it removes one, ``trash/NAME``; while it uses the tree of a difference,
that. Whether anybody uses it still is for an engine to say (``Driver.drop_trees``), unless it is
of an earlier boot. What living processes have there stays.

A whole layer is left, too, if the engine that asked for it was not told of it any more: it would
never remove it. So such an id can be reserved: a claim on ``unanswered/ID``, with a note beside it.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress

from reflayer.driver import spares
from reflayer.driver.clone_times import boot_id, forget
from reflayer.driver.differences import is_there
from reflayer.driver.home import BUILDS, MAPS, RESERVED, checked_id, is_id, naming, taken, unlink
from reflayer.driver.trash import delete_behind, discard, left_in_trash
from reflayer.driver.trees import drop_trees
from reflayer.errors import NO_ROOM, ArchiveError, LayerError, OperationError, failing
from reflayer.workers.lock import abandoned, claim, locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    Remake = Callable[[str, str, BinaryIO], None]
    """Makes the layer of an id, on a parent that an archive is applied to; on disk."""

_FOLDED = "folded"  # where a reflayer before this one kept differences as archives
_MOST_OF_A_LINE = 256  # bytes


def recover(home: str, remake: Remake) -> None:
    """Clear what processes that died left; what takes long is left to a process of its own."""
    try:
        _unfold_all(home, remake)
        for path, is_claimed in abandoned(f"{home}/{BUILDS}"):
            if is_claimed:
                forget(home, os.path.basename(path))  # where it was complete but not published
            discard(path, home)
        drop_trees(home, earlier=True)
        _forget_lost_maps(home)
        spares.tidy(home)
        if left_in_trash(home):
            delete_behind(home)
    except OperationError as error:
        if error.errno != errno.EROFS:  # there it can be read as it is
            raise


@contextmanager
def reserved(home: str, id: str, word: str) -> Iterator[None]:
    """Reserve the id of a layer that an engine asks for while the block makes it.

    At the end of the block the engine is told of the layer, or the layer is gone. Should this
    process die meanwhile, ``orphans`` tells ``word`` of it.

    Raises:
        LayerError: it is there or reserved already, or it is no id.
    """
    folder = f"{home}/{RESERVED}"
    with failing(folder, "mkdir"):
        os.makedirs(folder, 0o700, exist_ok=True)
    claimed = claim(f"{folder}/{checked_id(id)}")
    if claimed is None:
        raise taken(id)
    try:
        # In this order: a note that is there says that what is so called was made after it.
        if is_there(home, id):
            raise taken(id)
        with failing(claimed.path, "symlink"):  # it is there whole, and on a full disk, too
            os.symlink(f"{boot_id() or 'unknown'} {word}", claimed.path)
        try:
            yield
        finally:
            unlink(claimed.path)
    finally:
        claimed.release()


def orphans(home: str) -> Iterator[tuple[str, str]]:
    """What was reserved by processes that died: ids and words, each released when it was used.

    Of an earlier boot nothing is told: after a crash of the machine a note may be there that had
    been dropped, and the engine know the layer.
    """
    folder = f"{home}/{RESERVED}"
    for note, is_claimed in abandoned(folder) if os.path.isdir(folder) else ():
        if is_claimed:  # else its process has just dropped it
            try:
                boot, _, word = _read(note).partition(" ")
                if boot == boot_id():
                    yield os.path.basename(note), word
            finally:
                unlink(note)


def _read(note: str) -> str:
    """The note; empty where there is none, as where its maker died before it wrote any."""
    with failing(note, "read"):
        try:
            return os.readlink(note)
        except FileNotFoundError:
            return ""


def _forget_lost_maps(home: str) -> None:
    """Take away the maps of layers that a crash has kept from being there."""
    folder = f"{home}/{MAPS}"
    with failing(folder, "list"), suppress(FileNotFoundError):
        names = os.listdir(folder)
        with naming(home):
            for name in names:
                if not is_there(home, name):
                    unlink(f"{folder}/{name}")


def _unfold_all(home: str, remake: Remake) -> None:
    """Make layers of the archives in ``folded/ID``, which have the parent's id in the first line.

    One that a crash has cut off, or whose parent is gone, goes: the layer was lost before.
    """
    folder = f"{home}/{_FOLDED}"
    if not os.path.isdir(folder):
        return
    with locked(f"{folder}.lock"):
        with failing(folder, "list"):
            names = os.listdir(folder)
        try:
            for name in names:
                _unfold(home, name, remake)
        except OperationError as error:
            if error.errno in NO_ROOM:  # the next start does it
                return
            raise
        with failing(folder, "rmdir"):
            os.rmdir(folder)
        unlink(f"{folder}.lock")


def _unfold(home: str, id: str, remake: Remake) -> None:
    path = f"{home}/{_FOLDED}/{id}"
    with failing(path, "read"), suppress(FileNotFoundError):  # it was below one before
        with open(path, "rb", buffering=0) as file, suppress(ArchiveError, LayerError):
            parent = os.fsdecode(file.read(_MOST_OF_A_LINE).partition(b"\n")[0])
            if is_id(parent) and not is_there(home, id):  # else it was made just before a crash
                _unfold(home, parent, remake)
                file.seek(len(parent) + 1)
                remake(id, parent, file)
        unlink(path)
