"""Spares: clones of a layer that are made ahead of it, and handed out by one rename each.

``spares/BOOT/LAYER/KEY.RANDOM`` is one, and ``KEY.RANDOM.cloned`` its note of when it was complete
(``clone_times``); ``KEY.RANDOM.used`` is a container that was removed, and is to become one
(``recycle``). Nothing of these was written out to disk, so one of an earlier boot is discarded.
``KEY`` tells how it was made and by whom, so that nobody gets a tree that would be another if he
had made it. ``stack`` in the same folder tells of what it is a clone: the inodes and ctimes of the
layers' own folders, which change whenever one is filled, moved or made anew. A rename succeeds
once: so none is handed out twice, however many processes ask.

``warm/LAYER`` is a link whose text has how many somebody wants to be ready, the ``KEY``, and how
many a daemon wants that keeps them by itself (``lately``): the larger number holds. Its time of
modification is when one was last asked for. What makes them is ``fill``, in a process behind.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from reflayer.driver.clone_times import boot_id, first_clone, hand_over, note_path
from reflayer.driver.differences import is_there, lower, upper_path
from reflayer.driver.home import (
    SPARES,
    SPARES_LOCK,
    WARM,
    is_id,
    layer_path,
    naming,
    opened,
    relink,
    taken,
    unlink,
    write_new,
)
from reflayer.driver.maps import note_map
from reflayer.driver.room import is_short
from reflayer.driver.trash import delete_trash, discard
from reflayer.errors import LayerError, OperationError, failing
from reflayer.linux.user_namespace import id_map
from reflayer.record import record
from reflayer.workers.lock import flock, passing_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy import CopyReport
    from reflayer.driver.clone_times import Clone
    from reflayer.driver.home import Making

_STACK = "stack"
_NOTE = ".cloned"  # what follows a spare's name in that of its note
_USED = ".used"  # what follows it until it is undone what has changed
_LONGEST = 200  # characters of a key
_DAY = 86_400  # seconds


@record
class Spares:
    """Those of one layer.

    Attributes:
        layer: its id.
        wanted: how many are to be ready; 0 for those that are only there by recycling.
        paths: where those are that are ready.
    """

    layer: str
    wanted: int
    paths: list[str]

    @property
    def ready(self) -> int:
        """How many are ready."""
        return len(self.paths)


def key(making: Making) -> str | None:
    """What tells how a clone is made, and by whom; None where that does not fit into a name."""
    owner = "" if making.owner is None else f"{making.owner[0]}_{making.owner[1]}"
    maps = []
    for name in ("uid_map", "gid_map"):  # user_namespaces(7)
        with suppress(OSError):
            maps.append("_".join(id_map(name).split()))
    user = f"{os.geteuid()}_{os.getegid()}"
    if making.id_map is not None:
        maps.append(str(making.id_map))
    text = "-".join((making.method, making.ownership, owner, user, *maps))
    return text if len(text) <= _LONGEST else None


def making_of(made_by: str) -> Making | None:
    """How one has to make clones that are to be of this key; None for who cannot."""
    from reflayer.driver.home import Making

    method, ownership, owner, *_ = (*made_by.split("-"), "", "")
    user, _, group = owner.partition("_")
    making = Making(method, ownership, 1, (int(user), int(group)) if owner else None)
    if ":" in made_by:
        from reflayer.walk.id_map import IdMap

        id_map = IdMap.parse(made_by.rpartition("-")[2])
        making = Making(method, ownership, 1, making.owner, id_map)
    return making if key(making) == made_by else None


def stamp(home: str, layer: str) -> str | None:
    """What is another text as soon as one of the layers of a stack is; None if one is missing."""
    told, at = [], layer
    while True:
        below = lower(home, at)
        path = layer_path(home, at) if below is None else upper_path(home, at)
        with failing(path, "stat"):
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                return None
        told.append(f"{status.st_ino} {status.st_ctime_ns}")
        if below is None:
            return "\n".join(told)
        at = below


def wanted(home: str, layer: str) -> tuple[int, str] | None:
    """How many of a layer are to be ready, and their key."""
    asked = _asked(home, layer)
    return None if asked is None else (max(asked[0], asked[2]), asked[1])


def ready(home: str, layer: str, made_by: str | None) -> list[str]:
    """The paths of the spares of a layer that may be handed out, of one key."""
    folder = _folder(home, layer)
    if folder is None or not made_by:
        return []
    names = [name for name in _names(folder) if name.rpartition(".")[0] == made_by]
    found = [f"{folder}/{name}" for name in names]
    return found if found and _stack_of(folder) == (stamp(home, layer) or "") else []


def of_layer(home: str, layer: str) -> Spares:
    """What is wanted and ready of a layer."""
    count, made_by = wanted(home, layer) or (0, None)
    return Spares(layer, count, ready(home, layer, made_by))


def all_spares(home: str) -> list[Spares]:
    """``of_layer`` for each layer that has or shall have some, by id."""
    layers = filter(is_id, sorted(_names(f"{home}/{WARM}")))
    return [of_layer(home, layer) for layer in layers]


def last_use(home: str, layer: str) -> float:
    """When a clone of a layer was last asked for, in seconds since 1970; 0 if it is not wanted."""
    with suppress(OSError):
        return os.lstat(f"{home}/{WARM}/{layer}").st_mtime
    return 0


def keep(home: str, layer: str, count: int, making: Making) -> None:
    """Let ``count`` spares of a layer be ready from now on; with 0 there are none any more.

    Raises:
        LayerError: there is no such layer.
        OperationError: the map of ids that they are to have is too long.
    """
    made_by = key(making) if count else None
    if count and made_by is None:
        reason = "the map of ids has too many ranges for that"
        raise OperationError(f"{home}/{WARM}/{layer}", "keep spares", reason)
    with naming(home):
        if made_by is None:
            end(home, layer)
            return
        if not is_there(home, layer):
            raise LayerError(f"there is no layer {layer}")
        _want(home, layer, count, made_by)
        for spare in ready(home, layer, made_by)[count:]:
            throw_away(home, spare)


def keep_own(home: str, layer: str, count: int, making: Making, *, or_more: bool = False) -> None:
    """Let ``count`` be how many a daemon wants by itself, ``or_more``; what is too many goes.

    Nothing is done where the layer is not there, or somebody wants some that are made otherwise.
    """
    made_by = key(making)
    with naming(home):
        before = _asked(home, layer)
        asked, _, own = before or (0, "", 0)
        count = max(count, own) if or_more else count
        is_ours = before is None or not asked or before[1] == made_by
        if made_by is None or not is_ours or not is_there(home, layer):
            return
        if not asked and not count:
            end(home, layer)
        elif before != (asked, made_by, count):
            _want(home, layer, asked, made_by, count)
            for spare in ready(home, layer, made_by)[max(asked, count) :]:
                throw_away(home, spare)


def all_own(home: str) -> dict[str, int]:
    """How many a daemon wanted by itself of which layers, before it ended."""
    layers = filter(is_id, _names(f"{home}/{WARM}"))
    found = {layer: _asked(home, layer) for layer in layers}
    return {layer: asked[2] for layer, asked in found.items() if asked is not None and asked[2]}


def add(
    home: str,
    layer: str,
    path: str,
    noted: str | None,
    making: Making,
    before: str | None,
    *,
    only_wanted: bool = False,
) -> bool:
    """Publish the folder ``path``, which is a clone of ``layer``, as a spare.

    Args:
        home: the driver's home.
        layer: of which it is a spare.
        path: the folder, on the same file system, that nobody else has.
        noted: the path of the note of when it was complete; None where there is none.
        making: how it was made.
        before: what ``stamp`` told when it was begun.
        only_wanted: not where nobody wants any of that layer.

    Returns:
        Whether it was done. If not, as when the stack has changed or enough are ready, ``path`` and
        ``noted`` are still the caller's.
    """
    made_by, folder = key(making), _folder(home, layer)
    if made_by is None or folder is None:
        return False
    if noted is not None:  # it is no snapshot: all of it is in a journal, and so is what takes it
        with failing(path, "fsync"), opened(path) as fd:
            os.fsync(fd)
    with failing(folder, "add a spare"), naming(home):
        if before is None or stamp(home, layer) != before:
            return False
        count = wanted(home, layer)
        if only_wanted and (count is None or not count[0]):
            return False
        if count is None:
            _want(home, layer, 0, made_by)
        elif count[0] and len(ready(home, layer, made_by)) >= count[0]:
            return False
        _begin(home, folder, before)
        spare = f"{folder}/{passing_name(made_by)}"
        if noted is not None:
            os.rename(noted, spare + _NOTE)
        os.rename(path, spare)
    return True


def find(home: str, layer: str, making: Making) -> str | None:
    """A spare of a layer that may be handed out, within ``naming``; None where there is none."""
    return next(iter(ready(home, layer, key(making))), None)


def report(seconds: float) -> CopyReport:
    """What ``create`` tells of a spare that was taken."""
    from reflayer.copy.report import CopyReport

    return CopyReport("spare", {}, {}, {}, seconds)


def hand_out(home: str, spare: str, id: str) -> None:
    """Let a spare be the folder of layer ``id``, within ``naming``."""
    path = layer_path(home, id)
    with failing(path, "rename"):
        os.rename(spare, path)
    hand_over(spare + _NOTE, home, id)


def sweep(home: str, layer: str) -> str | None:
    """Discard what cannot be handed out, of another key, of a stack that has changed, half there.

    Returns:
        What ``stamp`` tells; None where there is no such layer now.
    """
    folder = _folder(home, layer)
    with naming(home):
        of, asked = stamp(home, layer), wanted(home, layer)
        # One that is not there may be being filled; who removes it ends its spares.
        if of is not None and folder is not None and os.path.isdir(folder):
            if _stack_of(folder) != of:
                discard(folder, home)
            for name in _names(folder):
                if name.endswith(_NOTE):
                    if not os.path.lexists(f"{folder}/{name.removesuffix(_NOTE)}"):
                        unlink(f"{folder}/{name}")
                elif (
                    name != _STACK
                    and asked is not None
                    and _key_of(name.removesuffix(_USED)) != asked[1]
                ):
                    throw_away(home, f"{folder}/{name}")
    return of


def lacks(home: str, layer: str, made_by: str) -> bool:
    """Whether more spares of this key are wanted than there are, with those that wait to be one."""
    asked = wanted(home, layer)
    if asked is None or asked[1] != made_by:
        return False
    return len(ready(home, layer, made_by)) + len(_used(home, layer)) < asked[0]


def new_used(home: str, layer: str, id: str, made_by: str) -> str | None:
    """Where the folder of layer ``id`` is to wait to be a spare of ``layer``; its note does by now.

    None where it has none, or there is no such layer.
    """
    folder, of = _folder(home, layer), stamp(home, layer)
    if folder is None or of is None:
        return None
    used = f"{folder}/{passing_name(made_by)}{_USED}"
    with failing(used, "write"), suppress(FileNotFoundError), naming(home):
        _begin(home, folder, of)
        with open(note_path(home, id), "rb") as file:
            noted = file.read()
        write_new(note_of(used), b"%b\n%b" % (noted, id.encode()))
        return used
    return None


def next_used(home: str, layer: str) -> str | None:
    """The path of one that waits."""
    return next(iter(_used(home, layer)), None)


def take_used(used: str, path: str) -> tuple[str, Clone | None]:
    """Move one that waits to ``path``; what layer it was, and what that was first a clone of."""
    noted = note_of(used)
    try:
        with failing(noted, "read"), open(noted) as file:
            id = file.read().rpartition("\n")[2]
        clone = first_clone(noted, used)
    except OperationError:  # it has no note
        id, clone = "", None
    with failing(used, "rename"):
        os.rename(used, path)
    unlink(noted)
    return id, clone


def note_of(spare: str) -> str:
    """Where the note of a spare is, or of what waits to be one."""
    return spare + _NOTE


def take(home: str, layer: str, id: str, making: Making) -> int | None:
    """Make a spare of ``layer`` the new layer ``id``; how many are left, None if there was none.

    Raises:
        LayerError: there is a layer ``id`` already.
    """
    with naming(home):
        if is_there(home, id):
            raise taken(id)
        found = ready(home, layer, key(making))
        if found:
            note_map(home, id, making.id_map)
            hand_out(home, found[0], id)
    return len(found) - 1 if found else None


def use(home: str, layer: str) -> bool:
    """Note that a clone of ``layer`` is asked for; whether there may be spares of it."""
    path = f"{home}/{WARM}/{layer}"
    with failing(path, "utime"):
        try:
            os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return True


def end(home: str, layer: str) -> str | None:
    """Let a layer have no spares, within ``naming``; return where in the trash they are."""
    unlink(f"{home}/{WARM}/{layer}")
    folder = _folder(home, layer)
    return None if folder is None or not os.path.lexists(folder) else discard(folder, home)


def throw_away(home: str, spare: str) -> str | None:
    """Let a spare be none any more, within ``naming``; return where in the trash it is."""
    trash = discard(spare, home)
    unlink(spare + _NOTE)
    return trash


def tidy(home: str) -> None:
    """Discard the spares of earlier boots, and those of layers that nobody asks for any more."""
    boot, now = boot_id(), time.time()
    for name in _names(f"{home}/{SPARES}"):
        if name != boot:
            discard(f"{home}/{SPARES}/{name}", home)
    for layer in filter(is_id, _names(f"{home}/{WARM}")):
        with suppress(FileNotFoundError):
            if abs(now - os.lstat(f"{home}/{WARM}/{layer}").st_mtime) > _DAY:
                with naming(home):
                    end(home, layer)
        asked = wanted(home, layer)
        if asked is None or len(ready(home, layer, asked[1])) >= asked[0]:
            for used in _used(home, layer):
                with naming(home):
                    throw_away(home, used)


def make_room(home: str) -> None:
    """Where little of the disk is free, delete spares until it is more, or there are none."""
    while is_short(home) and (spare := _least_used(home)) is not None:
        with naming(home):
            trash = throw_away(home, spare)
        if trash is not None:
            delete_trash(trash)


def give_up(home: str) -> bool:
    """Delete all spares, and that which is being made; whether there were any."""
    boot = boot_id()
    folder = f"{home}/{SPARES}/{boot}"
    is_filling = stop_filling(home)
    if boot is None or not os.path.isdir(folder):
        return is_filling
    with naming(home):
        trash = discard(folder, home)
    if trash is not None:
        delete_trash(trash)
    return True


def stop_filling(home: str) -> bool:
    """Let what makes spares end, and wait for it; whether there was something that does.

    Its lock file is unlinked: it looks now and then whether that is still there.
    """
    lock = f"{home}/{SPARES_LOCK}"
    with failing(lock, "unlink"):
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            if flock(fd, wait=False):
                return False
            unlink(lock)
            return flock(fd)
        finally:
            os.close(fd)


def _asked(home: str, layer: str) -> tuple[int, str, int] | None:
    """How many of a layer somebody wants, their key, and how many a daemon wants by itself."""
    path = f"{home}/{WARM}/{layer}"
    with failing(path, "read"), suppress(FileNotFoundError, ValueError):
        count, made_by, own, *_ = (*os.readlink(path).split(" "), "0")
        return int(count), made_by, int(own)
    return None


def _want(home: str, layer: str, count: int, made_by: str, own: int = 0) -> None:
    folder = f"{home}/{WARM}"
    with failing(folder, "mkdir"):
        os.makedirs(folder, 0o700, exist_ok=True)
    relink(f"{folder}/{layer}", f"{count} {made_by} {own}" if own else f"{count} {made_by}")


def _begin(home: str, folder: str, of: str) -> None:
    """Let there be a folder for spares of the stack that ``of`` tells."""
    if _stack_of(folder) != of:
        discard(folder, home)
        os.makedirs(folder, 0o700)
        write_new(f"{folder}/{_STACK}", of.encode())


def _used(home: str, layer: str) -> list[str]:
    """The paths of those that wait."""
    folder = _folder(home, layer)
    names = _names(folder) if folder is not None else []
    return [f"{folder}/{name}" for name in names if name.endswith(_USED)]


def _least_used(home: str) -> str | None:
    """A spare of the layer that was not asked for longest."""
    found = [one.layer for one in all_spares(home)]
    for layer in sorted(found, key=lambda layer: last_use(home, layer)):
        folder = _folder(home, layer)
        for name in _names(folder) if folder else ():
            if _key_of(name):
                return f"{folder}/{name}"
    return None


def _folder(home: str, layer: str) -> str | None:
    """Where the spares of a layer are; None where nothing tells one boot from another."""
    boot = boot_id()
    return None if boot is None else f"{home}/{SPARES}/{boot}/{layer}"


def _key_of(name: str) -> str:
    """The key of a spare of this name; empty for what is none."""
    return "" if name.endswith(_NOTE) else name.rpartition(".")[0]


def _stack_of(folder: str) -> str | None:
    path = f"{folder}/{_STACK}"
    with failing(path, "read"), suppress(FileNotFoundError), open(path) as file:
        return file.read()
    return None


def _names(folder: str) -> list[str]:
    with failing(folder, "list"), suppress(FileNotFoundError):
        return os.listdir(folder)
    return []
