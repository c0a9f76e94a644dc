"""Layers folded up: kept as what is different in them from their parent, until someone looks.

For each container Docker clones an image twice: as ``ID-init``, in which it makes a few files, and
that as the container's own. The first is rarely looked at again. So the container gets the folder
of the first, and that is folded up: its difference from the image stays as a layer archive in the
home's ``folded/``, and makes the layer again when somebody asks for it.
"""

from __future__ import annotations

import os
from contextlib import suppress

from reflayer.driver.builds import building, publish
from reflayer.driver.cloned import forget, keeping, note, origin
from reflayer.driver.home import BUILDS, FOLDED, FOLDED_LOCK, LAYERS
from reflayer.driver.label import set_label
from reflayer.driver.making import making
from reflayer.driver.names import is_id
from reflayer.driver.trash import unlink
from reflayer.errors import ArchiveError, LayerError, OperationError
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from reflayer.driver.making import Making

_MOST = 1 << 18  # bytes of a difference; Docker's has some ten thousand
_NEW = ".new"  # what precedes an id while its difference is being written: no id begins so


class LostError(LayerError):
    """A crash of the machine took what a layer was folded up to."""

    def __init__(self, id: str) -> None:
        super().__init__(f"layer {id} was lost when the machine crashed: remove its container")


def folding(home: str) -> AbstractContextManager[bool]:
    """Let nobody else fold or unfold a layer, or remove one that others are folded upon.

    Raises:
        OperationError: the lock cannot be had.
    """
    return locked(f"{home}/{FOLDED_LOCK}")


def is_folded(home: str, id: str) -> bool:
    """Whether layer ``id`` is folded up."""
    return os.path.exists(_path(home, id))


def folded(home: str) -> list[str]:
    """The ids of the layers that are folded up.

    Raises:
        OperationError: the home cannot be read.
    """
    folder = f"{home}/{FOLDED}"
    try:
        return [name for name in os.listdir(folder) if is_id(name)]
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(folder), "list") from error


def parent_of(home: str, id: str) -> str | None:
    """The layer that the folded one was cloned from; None where there is no folded ``id``.

    Raises:
        OperationError: the record of it cannot be read.
        LostError: it has been lost.
    """
    path = _path(home, id)
    try:
        with open(path, "rb") as file:
            return _read_parent(id, file.readline(_MOST))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "read") from error


def fold_into(how: Making, id: str, parent: str, label: str) -> bool:
    """Make the folder of layer ``parent`` that of the new layer ``id``, and fold ``parent`` up.

    Returns:
        Whether it was done. It is not where the note of what ``parent`` was cloned from is missing,
        much is different in it, or something that an archive cannot hold.

    Raises:
        LayerError: layer ``id`` is there already.
        OperationError: a step of it failed. ``parent`` is there still, folded or not.
    """
    home = how.home
    layer = f"{home}/{LAYERS}/{parent}"
    found = origin(home, parent, layer)
    if found is None:
        return False
    below, cloned = found
    archive = _difference(layer, f"{home}/{LAYERS}/{below}", cloned)
    if archive is None:
        return False
    with building(f"{home}/{BUILDS}", id) as path:
        with folding(home):
            if not os.path.isdir(f"{home}/{LAYERS}/{below}"):
                return False
            _write(home, parent, b"%s\n%s" % (below.encode(), archive))
            try:
                os.rename(layer, path)
            except OSError as error:
                raise OperationError.from_os_error(error, os.fsencode(layer), "rename") from error
            forget(home, parent)
        if label:
            set_label(path, label)
        with keeping(note(home, path, parent), id):
            publish(path, f"{home}/{LAYERS}/{id}")
    return True


def unfold(how: Making, id: str) -> None:
    """Make the folded layer ``id`` again; to be called within ``folding``.

    Raises:
        LayerError: the layer that it was cloned from is not there.
        LostError: it has been lost.
        CopyError, OperationError: it cannot be made. It stays folded.
    """
    from reflayer.archive import apply_stream

    path = _path(how.home, id)
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_MOST)
            parent = _read_parent(id, head)
            file.seek(len(parent) + 1)
            if not os.path.isdir(f"{how.home}/{LAYERS}/{parent}") and is_folded(how.home, parent):
                unfold(how, parent)
            with making(how, id, parent, None, durable=False, size=0, label="") as (made, _):
                try:
                    apply_stream(made, file, ownership=how.ownership)
                except ArchiveError as error:
                    raise LostError(id) from error
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "read") from error
    drop(how.home, id)


def unfold_upon(how: Making, id: str) -> None:
    """Make each layer again that is folded upon ``id``; to be called within ``folding``.

    Raises:
        CopyError, OperationError: one cannot be made.
    """
    for upon in folded(how.home):
        with suppress(LostError):  # who asks for it will be told
            if parent_of(how.home, upon) == id:
                unfold(how, upon)


def drop(home: str, id: str) -> None:
    """Take away what layer ``id`` was folded up to, if it was.

    Raises:
        OperationError: it cannot be unlinked.
    """
    unlink(_path(home, id))


def sweep_folded(home: str) -> None:
    """Take away what processes that died left half done.

    Raises:
        OperationError: it cannot be read or unlinked.
    """
    folder = f"{home}/{FOLDED}"
    if not folded(home) and not os.path.exists(f"{folder}/{_NEW}"):
        return
    with folding(home):
        unlink(f"{folder}/{_NEW}")
        for id in folded(home):
            if os.path.isdir(f"{home}/{LAYERS}/{id}"):  # not yet folded, or unfolded already
                drop(home, id)


def _path(home: str, id: str) -> str:
    return f"{home}/{FOLDED}/{id}"


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


def _write(home: str, id: str, content: bytes) -> None:
    path = _path(home, id)
    new = f"{home}/{FOLDED}/{_NEW}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(content)
        os.rename(new, path)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "write") from error


def _read_parent(id: str, head: bytes) -> str:
    name, end, _ = head.partition(b"\n")
    parent = os.fsdecode(name)
    if not end or not is_id(parent):
        raise LostError(id)
    return parent
