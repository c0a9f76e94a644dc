"""Checkpoints: what a container has become is a layer, and it can go back to any layer.

A container stands on the layer that it was last the same as, and its note tells since when
(``clone_times``). A checkpoint copies what changed since then into a difference on that layer, on
which the container stands from then on; to roll back to it is to undo what changed since. To go
to another layer is to undo that, too, and to make what one of the two stacks has and the other has
not. So all cost what has changed.

A few checkpoints that lie on each other are joined in the next one, which lies on what they lie on,
so that stacks stay low. Nothing that is there is changed by that: who reads them goes on.

Where there is no such note, as after a boot, or where differences are not kept, a checkpoint is a
clone of the container: a snapshot on btrfs. And to go back is then to make a clone of the layer,
with which the container's folder changes places in one step.

A rollback that was cut off has left a mixture, but where the folders change places. Whoever keeps
containers notes before to which layer one goes, and does it once more: until the end the container
stands on the layer that it stood on, and all that was made has changed since.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from reflayer.driver.clone import clone
from reflayer.driver.clone_times import (
    clone_details,
    first_clone,
    folder_paths,
    keeping,
    later,
    note,
    note_path,
    now,
    renote,
    same_as,
)
from reflayer.driver.create import building, copy_label, new_layer, publish_difference
from reflayer.driver.differences import (
    is_there,
    level,
    lower,
    make_difference,
    require,
    set_level,
    stack,
    upper_path,
)
from reflayer.driver.home import CHANGING, DIFFERENCES, layer_path, naming, opened, unlink
from reflayer.driver.spares import key
from reflayer.driver.trash import delete, discard
from reflayer.driver.trees import make_whole
from reflayer.errors import LayerError, failing
from reflayer.record import record
from reflayer.workers.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.driver.home import Making
    from reflayer.progress import Progress

_RUN = 8  # checkpoints on each other that become one
_MOST = 96  # differences of a stack: each costs a clone of it some calls for each folder


@record
class Checkpoint:
    """A layer that a container was the same as.

    Attributes:
        layer: its id.
        is_new: whether it was made for that; if not, nothing had changed.
        lower: the layer that it lies on, if it is new and a difference.
        size: bytes of the files in it, if it is new.
    """

    layer: str
    is_new: bool
    lower: str | None
    size: int


@contextmanager
def changing(home: str, id: str) -> Iterator[None]:
    """Let no other thread or process make a checkpoint of layer ``id``, or roll it back."""
    folder = f"{home}/{CHANGING}"
    with failing(folder, "mkdir"):
        os.makedirs(folder, 0o700, exist_ok=True)
    lock = f"{folder}/{id}"
    with locked(lock):
        try:
            yield
        finally:
            unlink(lock)


@contextmanager
def checkpoint(
    home: str, id: str, new: str, making: Making, keeps_differences: bool
) -> Iterator[Checkpoint]:
    """Make the layer ``new`` of what layer ``id`` is; after the block ``id`` stands on it."""
    layer = layer_path(home, id)
    with failing(layer, "stat"):
        if not os.path.isdir(layer):
            raise LayerError(f"there is no whole layer {id}")
    made: Checkpoint | None = None
    paths: dict[bytes, int] = {}
    if keeps_differences:
        began = later(home)  # so that what is in this one is not in the next one, too
        made, paths = _make_difference(home, id, new, making)
    if made is None:
        # A snapshot need not wait, and after a copy a few files more count as changed.
        began = now()
        with new_layer(home, new, id, making, durable=True) as (_, report):
            assert report is not None
            made = Checkpoint(new, True, None, sum(report.bytes.values()))
            is_snapshot = report.method == "snapshot"
        yield made
        if not is_snapshot:
            renote(home, id, new, began, {})
        return
    yield made
    if made.is_new:
        renote(home, id, made.layer, began, paths)


def rollback(home: str, id: str, to: str, making: Making, progress: Progress | None) -> str | None:
    """Let layer ``id`` be what layer ``to`` is.

    Returns:
        Where in the trash its folder is, if it has got another.
    """
    layer = layer_path(home, id)
    require(home, to)
    with failing(layer, "stat"):
        if not os.path.isdir(layer):
            raise LayerError(f"there is no whole layer {id}")
    stands = stands_on(home, id)
    between = None if stands is None else _between(home, stands[0], to)
    if stands is not None and between is not None:
        from reflayer.archive.undo import undo

        known, paths = _folders(home, id, stands)
        made = undo(
            layer,
            stack(home, to, making.id_map),
            stands[1],
            known=known,
            paths=paths,
            was=stack(home, stands[0], making.id_map) if between else None,
            between=between,
            method=making.method,
            ownership=making.ownership,
            workers=making.workers,
        )
        if made is not None or between:
            renote(home, id, to, later(home), paths)
        return None
    from reflayer.driver.quota import use_of

    with building(home, id) as path:
        limited = use_of(layer)
        size = 0 if limited is None else limited.limit
        folders: list[int] = []
        report = clone(home, to, path, making, size=size, progress=progress, folders=folders)
        copy_label(layer, path)
        noted = None
        if report.method != "snapshot":
            noted = note(home, path, to, clone_details("" if size else key(making), folders))
        with keeping(noted, id), failing(layer, "exchange"), naming(home):
            from reflayer.linux.renameat2 import exchange

            if not is_there(home, id):
                raise LayerError(f"there is no layer {id}")
            before = os.lstat(path)
            exchange(path, layer)
            os.utime(layer, ns=(before.st_atime_ns, before.st_mtime_ns))  # XFS changes it
        return discard(path, home)


def _make_difference(
    home: str, id: str, new: str, making: Making
) -> tuple[Checkpoint | None, dict[bytes, int]]:
    """Make ``new`` a difference on what ``id`` stands on; None where that cannot be.

    Returns:
        Also the inodes of the folders of ``id``, by their paths.
    """
    stands = stands_on(home, id)
    if stands is None:
        return None, {}
    from reflayer.archive.copy_changes import copy_changes

    below, since = stands
    layers, (known, paths) = stack(home, below), _folders(home, id, stands)
    if len(layers.differences) >= _MOST:
        make_whole(home, below, making)
        layers, known = stack(home, below), {}
    with (
        building(home, new) as path,
        opened(f"{home}/{DIFFERENCES}", follow=True) as folder,
    ):
        upper = make_difference(path, below, is_new=False)
        copied = copy_changes(
            layer_path(home, id),
            layers,
            since,
            upper,
            known=known,
            paths=paths,
            ids=stack(home, id).ids,
            method=making.method,
            ownership=making.ownership,
            workers=making.workers,
        )
        if copied.is_same:
            delete(path)
            return Checkpoint(below, False, None, 0), {}
        joined, reached = _to_join(home, below)
        if not joined:
            set_level(path, 0)
            publish_difference(path, home, new, folder)
        else:
            from reflayer.archive.join import join

            below = lower(home, joined[-1]) or below  # it has one, as all that has a level
            with building(home, new) as whole:
                into = make_difference(whole, below, is_new=False)
                set_level(whole, reached)
                uppers = [upper, *(upper_path(home, layer) for layer in joined)]
                join(uppers, into, method=making.method, ownership=making.ownership)
                publish_difference(whole, home, new, folder)
            delete(path)
    return Checkpoint(new, True, below, copied.size), copied.paths


def _to_join(home: str, below: str) -> tuple[list[str], int]:
    """The layers from ``below`` on that a new checkpoint on it takes in, and its level then.

    Whenever there are ``_RUN`` of a level, they are one of the next: so of a thousand in a row a
    few dozen lie on each other, and a change is copied once for each level.
    """
    joined: list[str] = []
    reached = 0
    at: str | None = below
    while True:
        run: list[str] = []
        while at is not None and len(run) < _RUN - 1 and level(home, at) == reached:
            run.append(at)
            at = lower(home, at)
        if len(run) < _RUN - 1 or at is None:
            return joined, reached
        joined += run
        reached += 1


def stands_on(home: str, id: str) -> tuple[str, int] | None:
    """The layer that ``id`` stands on, and since when; None where times do not tell."""
    from reflayer.linux.statfs import file_system_name

    layer = layer_path(home, id)
    found = same_as(home, id, layer)
    if found is None or not is_there(home, found[0]):
        return None
    with opened(layer) as fd, suppress(OSError):
        if file_system_name(fd) != "tmpfs":  # there a store into a mapped file changes no time
            return found
    return None


def goes_in_place(home: str, id: str, to: str) -> bool:
    """Whether a rollback changes the folder of layer ``id``, and may leave that half done."""
    stands = stands_on(home, id)
    return stands is not None and _between(home, stands[0], to) is not None


def _between(home: str, one: str, other: str) -> list[bytes] | None:
    """The differences that the stack of one layer has, and that of another has not, both ways.

    None where they lie on different trees, or one of them hides all that is below.
    """
    from reflayer.walk.overlay import is_opaque

    sides = [stack(home, layer).paths for layer in (one, other)]
    between = [
        path for path in (*sides[0], *sides[1]) if path not in sides[0] or path not in sides[1]
    ]
    if sides[0][-1] in between or any(map(is_opaque, between)):
        return None
    return between


def _folders(
    home: str, id: str, stands: tuple[str, int]
) -> tuple[dict[int, int], dict[bytes, int]]:
    """The folders that layer ``id`` had, as ``undo`` takes them: known by the clone, and by paths.

    They are by paths since a checkpoint or a rollback, and until then by the clone, if it stands on
    what it is one of. The rename by which it got its name has changed its root since then.
    """
    paths = folder_paths(home, id, stands[1])
    first = None if paths else first_clone(note_path(home, id), layer_path(home, id))
    if first is None or (first.layer, first.cloned) != stands:
        return {}, paths
    return dict(zip(first.folders[::2], first.folders[1::2], strict=False)), paths
