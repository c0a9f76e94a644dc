"""Layers folded up: kept as what is different in them from their parent, until they are asked for.

For each container Docker clones an image twice: as ``ID-init``, in which it makes a few files, and
that as the container's own. The first is rarely looked at again. So the container gets the folder
of the first, and that is folded up: its difference from the image stays as a layer archive in the
``folded/``, after a line with the image's id, and makes the layer again when it is asked for.
"""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.driver.clone_times import forget, keeping, note, origin
from reflayer.driver.create import building, publish, set_label
from reflayer.driver.home import (
    FOLDED,
    FOLDED_LOCK,
    has_folder,
    is_id,
    layer_path,
    unlink,
    write_new,
)
from reflayer.errors import ArchiveError, LayerError, failing
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    Remake = Callable[[str, str, BinaryIO], None]
    """Makes the layer of an id: a clone of a parent that an archive is applied to."""

_MOST = 1 << 18  # bytes of a difference; Docker's has some ten thousand


class LostError(LayerError):
    """A crash of the machine took what a layer was folded up to."""

    def __init__(self, id: str) -> None:
        super().__init__(f"layer {id} was lost when the machine crashed: remove its container")


def folding(home: str) -> AbstractContextManager[bool]:
    """Let no other thread or process fold or unfold a layer, or remove one."""
    return locked(f"{home}/{FOLDED_LOCK}")


def is_there(home: str, id: str) -> bool:
    """Whether there is a layer ``id``, folded up or not."""
    # Once more at the end: it may have been unfolded meanwhile.
    return has_folder(home, id) or os.path.exists(_path(home, id)) or has_folder(home, id)


def folded(home: str) -> list[str]:
    """The ids of the layers that are folded up."""
    folder = f"{home}/{FOLDED}"
    with failing(folder, "list"):
        return [name for name in os.listdir(folder) if is_id(name)]


def fold_into(home: str, id: str, parent: str, label: str) -> bool:
    """Make the folder of layer ``parent`` that of the new layer ``id``, and fold ``parent`` up.

    Returns:
        Whether it was done. It is not where the note of what ``parent`` was cloned from is missing,
        much is different in it, or something that an archive cannot hold.

    Raises:
        LayerError: layer ``id`` is there already.
        OperationError: a step of it failed. ``parent`` is there still, folded or not.
    """
    layer = layer_path(home, parent)
    found = origin(home, parent, layer)
    if found is None:
        return False
    below, cloned = found
    archive = _difference(layer, layer_path(home, below), cloned)
    if archive is None:
        return False
    with building(home, id) as path:
        with folding(home):
            if not has_folder(home, below):
                return False
            kept = _path(home, parent)
            with failing(kept, "write"):
                write_new(path, b"%s\n%s" % (below.encode(), archive))
                try:
                    os.rename(path, kept)
                except OSError:
                    unlink(path)
                    raise
            with failing(layer, "rename"):
                os.rename(layer, path)
            forget(home, parent)
        if label:
            set_label(path, label)
        with keeping(note(home, path, parent), id):
            publish(path, home, id)
    return True


def unfold(home: str, id: str, remake: Remake) -> None:
    """Make the folder of layer ``id`` again, unless another is faster.

    Raises:
        LayerError: there is no such layer, or not the one that it was cloned from, or it is lost.
        CopyError, OperationError: it cannot be made. It stays folded.
    """
    with folding(home):
        if _parent_of(home, id) is not None:
            if not has_folder(home, id):
                _unfold(home, id, remake)
        elif not has_folder(home, id):
            raise LayerError(f"there is no layer {id}")


def unfold_upon(home: str, id: str, remake: Remake) -> None:
    """Before layer ``id`` goes, and within ``folding``: unfold each that is folded upon it.

    What ``id`` was folded up to itself is taken away.
    """
    for upon in folded(home):
        with suppress(LostError):  # asking for it tells
            if _parent_of(home, upon) == id:
                _unfold(home, upon, remake)
    unlink(_path(home, id))


def sweep_folded(home: str) -> None:
    """Take away what processes that died left half done."""
    if folded(home):
        with folding(home):
            for id in folded(home):
                if has_folder(home, id):  # not yet folded, or unfolded already
                    unlink(_path(home, id))


def _unfold(home: str, id: str, remake: Remake) -> None:
    path = _path(home, id)
    with failing(path, "read"), open(path, "rb", buffering=0) as file:
        parent = _read_parent(id, file.read(_MOST))
        file.seek(len(parent) + 1)
        if not has_folder(home, parent) and os.path.exists(_path(home, parent)):
            _unfold(home, parent, remake)
        try:
            remake(id, parent, file)
        except ArchiveError as error:
            raise LostError(id) from error
    unlink(path)


def _parent_of(home: str, id: str) -> str | None:
    """The layer that the folded one was cloned from; None where there is no folded ``id``."""
    path = _path(home, id)
    with failing(path, "read"):
        try:
            with open(path, "rb") as file:
                return _read_parent(id, file.readline(_MOST))
        except FileNotFoundError:
            return None


def _read_parent(id: str, head: bytes) -> str:
    name, end, _ = head.partition(b"\n")
    parent = os.fsdecode(name)
    if not end or not is_id(parent):
        raise LostError(id)
    return parent


def _difference(layer: str, below: str, cloned: float) -> bytes | None:
    """What is different in ``layer`` as an archive; None where that is much, or not all of it."""
    from reflayer.archive import pack_layer

    packing = pack_layer(layer, below, cloned=cloned)
    archive = bytearray()
    try:
        for chunk in packing:
            archive += chunk
            if len(archive) > _MOST:
                return None
    except ArchiveError:  # a name that no archive can have
        return None
    return None if packing.skipped else bytes(archive)


def _path(home: str, id: str) -> str:
    return f"{home}/{FOLDED}/{id}"
