"""A layer that is a difference: where it is, what it lies on, and what lies on a layer.

``differences/ID/upper`` is its folder, in the form that ``reflayer.walk.overlay`` tells.
``differences/ID/lower`` is a link whose text is the id of the layer that it lies on; it is missing
until that is told (``rebase``). ``differences/ID/new`` says that nobody has filled it yet. The link
``differences/ID/level`` is a checkpoint's: its text is how often others were joined into it.

``children/ID/CHILD`` is made before the difference that lies on ``ID``, so that a removal finds it
without a look at all others. Such a name may be left over: what ``lower`` says counts.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from reflayer.driver.home import (
    CHILDREN,
    DIFFERENCES,
    LAYERS,
    checked_id,
    has_tree,
    is_id,
    layer_path,
    opened,
    relink,
    unlink,
)
from reflayer.driver.maps import map_of
from reflayer.errors import LayerError, OperationError, failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.home import Making
    from reflayer.walk.id_map import IdMap
    from reflayer.walk.stack import Stack

_UPPER, _LOWER, _NEW, _LEVEL = "upper", "lower", "new", "level"
_UNSET = 0o1700  # mode of a root that nobody has set


def difference_path(home: str, id: str) -> str:
    """Where the difference ``id`` is, with what is told of it."""
    return f"{home}/{DIFFERENCES}/{id}"


def upper_path(home: str, id: str) -> str:
    """The folder of the difference ``id``."""
    return upper_in(difference_path(home, id))


def upper_in(path: str) -> str:
    """The folder of the difference at ``path``."""
    return f"{path}/{_UPPER}"


def is_difference(home: str, id: str) -> bool:
    """Whether there is a layer ``id`` that is a difference."""
    return os.path.isdir(upper_path(home, id))


def is_there(home: str, id: str) -> bool:
    """Whether there is a layer ``id``, whole or a difference."""
    # Once more at the end: it may have become whole meanwhile.
    return has_tree(home, id) or is_difference(home, id) or has_tree(home, id)


def require(home: str, id: str) -> None:
    """Raise LayerError where there is no layer ``id``, or that is none."""
    if not is_there(home, checked_id(id)):
        raise LayerError(f"there is no layer {id}")


def layers(home: str) -> list[str]:
    """The ids of all layers, sorted."""
    found = set()
    for folder in (LAYERS, DIFFERENCES):
        with failing(f"{home}/{folder}", "list"):
            try:
                scan = os.scandir(f"{home}/{folder}")
            except FileNotFoundError:
                if folder == LAYERS:
                    raise
                continue  # an older version has made the home, and it cannot be written to
            with scan:
                found |= {e.name for e in scan if is_id(e.name) and e.is_dir(follow_symlinks=False)}
    return sorted(found)


def lower(home: str, id: str) -> str | None:
    """The layer that the difference ``id`` lies on; None for a whole one, and until it is told."""
    return lower_in(difference_path(home, id))


def lower_in(path: str) -> str | None:
    """The layer that the difference at ``path`` lies on."""
    with failing(path, "read"), suppress(FileNotFoundError):
        return os.readlink(f"{path}/{_LOWER}")
    return None


def stack(home: str, id: str, id_map: IdMap | None = None) -> Stack:
    """The folders of which layer ``id`` is the union; nothing holds them.

    The ids in it are those that images have, or by ``id_map`` the host's.

    Raises:
        LayerError: one of the layers is not there, or what it lies on was not told yet; or it has
            the host's ids by another map.
    """
    from reflayer.walk.stack import Stack

    differences, at = [], id
    while (below := lower(home, at)) is not None:
        differences.append(os.fsencode(upper_path(home, at)))
        at = below
    if not has_tree(home, at):
        reason = "there is no"
        if is_difference(home, at):
            reason = "it was not told yet what lies below"
        raise LayerError(f"{reason} layer {at}{f', which {id} lies on' if at != id else ''}")
    own, ids = map_of(home, at), None
    if own is None:
        ids = None if id_map is None else id_map.for_host
    elif id_map is None:
        ids = own.for_container
    elif id_map != own:
        raise LayerError(f"layer {at} has a user namespace of its own: make a checkpoint of it")
    return Stack(tuple(differences), os.fsencode(layer_path(home, at)), ids)


def make_difference(path: str, parent: str | None, *, is_new: bool) -> str:
    """Make an empty difference on ``parent`` at ``path``; the path of its folder.

    Its root is marked until somebody sets it: it is to be like that of the layer below.
    """
    upper = upper_in(path)
    with failing(path, "mkdir"):
        os.mkdir(path, 0o700)
        os.mkdir(upper)
        os.chmod(upper, _UNSET)  # whatever the umask
        if parent is not None:
            os.symlink(parent, f"{path}/{_LOWER}")
        if is_new:
            os.mknod(f"{path}/{_NEW}", stat.S_IFREG | 0o600)
    return upper


def level(home: str, id: str) -> int | None:
    """How often others were joined into the difference ``id``; None where it is no checkpoint's."""
    path = f"{difference_path(home, id)}/{_LEVEL}"
    with failing(path, "read"), suppress(FileNotFoundError):
        return int(os.readlink(path))
    return None


def set_level(path: str, level: int) -> None:
    """Note that of the difference at ``path``."""
    with failing(path, "note how often it was joined"):
        os.symlink(str(level), f"{path}/{_LEVEL}")


def is_empty(path: str) -> bool:
    """Whether nobody has filled the difference at ``path`` yet."""
    with failing(path, "list"), suppress(FileNotFoundError):
        return os.path.lexists(f"{path}/{_NEW}") and not os.listdir(upper_in(path))
    return False


def set_filled(path: str) -> None:
    """Note that somebody has filled the difference at ``path``, be it with nothing."""
    unlink(f"{path}/{_NEW}")


def set_lower(path: str, parent: str) -> None:
    """Let the difference at ``path`` lie on ``parent``."""
    relink(f"{path}/{_LOWER}", parent)


def children(home: str, id: str) -> list[str]:
    """The differences that lie on layer ``id``."""
    folder = f"{home}/{CHILDREN}/{id}"
    with failing(folder, "list"):
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
    return [name for name in names if lower(home, name) == id and is_difference(home, name)]


def add_child(home: str, id: str, child: str) -> None:
    """Note, before it does, that ``child`` lies on layer ``id``."""
    folder = f"{home}/{CHILDREN}/{id}"
    while True:
        with failing(folder, "note what lies on it"), suppress(FileNotFoundError, FileExistsError):
            os.makedirs(folder, 0o700, exist_ok=True)
            os.mknod(f"{folder}/{child}", stat.S_IFREG | 0o600)
        if os.path.lexists(f"{folder}/{child}"):  # else the last child went meanwhile
            return


def forget_child(home: str, id: str, child: str) -> None:
    """Take the note away, after that it does so no more."""
    folder = f"{home}/{CHILDREN}/{id}"
    unlink(f"{folder}/{child}")
    with suppress(OSError):  # there are others
        os.rmdir(folder)


def forget_children(home: str, id: str) -> None:
    """Take away what is left over of the notes on layer ``id``, on which nothing lies."""
    folder = f"{home}/{CHILDREN}/{id}"
    with failing(folder, "list"), suppress(FileNotFoundError):
        for child in os.listdir(folder):
            forget_child(home, id, child)


def _copy_root(home: str, id: str, upper: str, making: Making) -> None:
    """Give the folder ``upper`` of a difference the metadata of the root of layer ``id``."""
    from reflayer.archive.copy_up import folder_facts
    from reflayer.walk.facts import FailedError
    from reflayer.walk.metadata import Metadata
    from reflayer.walk.stack import Part

    layers = stack(home, id)
    path = os.fsdecode(layers.paths[0])
    try:
        with opened(path) as source, opened(upper) as fd, failing(path, "stat"):
            facts = folder_facts(Part(source, not layers.differences, 0))
            Metadata(making.ownership).set_all(fd, facts, -1, -1, -1)
    except FailedError as error:
        raise OperationError.from_os_error(error.cause, upper, error.operation) from error
    except OperationError:
        if os.path.lexists(path):
            raise
        _copy_root(home, id, upper, making)  # it is gone, or has become whole


def settle_root(home: str, id: str | None, upper: str, making: Making) -> None:
    """Let a root that nobody has set be like that of layer ``id``, or of an empty layer.

    Nobody else makes a folder of that mode.
    """
    with failing(upper, "chmod"):
        if stat.S_IMODE(os.lstat(upper).st_mode) != _UNSET:
            return
        if id is not None:
            _copy_root(home, id, upper, making)
            return
        if making.owner is not None:
            os.chown(upper, *making.owner)
        os.chmod(upper, 0o755)
