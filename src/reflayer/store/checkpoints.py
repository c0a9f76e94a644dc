"""Checkpoints of containers: made, gone back to, gone on from in another container, and removed.

A checkpoint is a layer with a name of its container's. They make a tree: each goes on from the one
that the container stood on. The layer that a container stands on, which it was last the same as, is
its image's, unless ``standing`` has another; a fork stands on the layer that it was made of.

A rollback is noted there before it begins, and until it is done. So one that was cut off is
finished by whoever uses that container next (``finish``), under the same lock.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from reflayer.errors import (
    CopyError,
    StoreError,
    TakenNameError,
    UnknownNameError,
    did_you_mean,
    failing,
    listed,
    printable,
)
from reflayer.record import record
from reflayer.store.collect import collect, dirtying, making, marked
from reflayer.store.containers import (
    Checkpoint,
    checked_name,
    checkpoints_of,
    container_of,
    find_container,
    free_name,
    is_unfinished,
    look_for_container,
    new_id,
    refuse_taken,
    require_folder,
)
from reflayer.store.images import StoredLayer, add_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sqlite3 import Connection

    from reflayer.progress import Progress
    from reflayer.store.containers import Container
    from reflayer.store.parts import Parts
    from reflayer.walk.id_map import IdMap


@record
class _Standing:
    """The layer that a container stands on, and the checkpoint, if there is one."""

    layer: str
    checkpoint: str | None


def checkpoint(
    parts: Parts, container: str, name: str | None, freeze: str | None = None
) -> Checkpoint:
    """With ``freeze``, the processes of a cgroup stand still until all has been copied."""
    if name is not None:
        _checked(name)
    with making(parts):
        one = opened(parts, container)
        with parts.driver.changing(one.id):
            return _checkpoint(parts, one, name, freeze)


def rollback(
    parts: Parts, container: str, name: str | None, progress: Progress | None = None
) -> Checkpoint | None:
    with making(parts):
        one = opened(parts, container)
        with parts.driver.changing(one.id):
            with parts.database.reading() as db:
                before = _standing(db, one)
                to = before if name is None else _Standing(_find(db, one, name).layer, name)
            _roll_back(parts, one, before, to, progress)
            with parts.database.reading() as db:
                return None if to.checkpoint is None else _find(db, one, to.checkpoint)


def fork(
    parts: Parts,
    container: str,
    checkpoint: str | None,
    new: str | None,
    size: int,
    progress: Progress | None = None,
    id_map: IdMap | None = None,
) -> Container:
    """Without a checkpoint, of one that is made now, unless nothing has changed since the last.

    Without an ``id_map`` it has that of the container, if there is one.
    """
    from reflayer.store.create import refuse_map  # it brings the driver

    if new is not None:
        checked_name(new)
    with making(parts):
        one = opened(parts, container)
        if checkpoint is None:
            with parts.driver.changing(one.id):
                layer = _layer_now(parts, one)
        else:
            with parts.database.reading() as db:
                layer = _find(db, one, checkpoint).layer
        id = new_id()
        with marked(parts) as agree:
            ids = id_map or parts.driver.id_map(one.id)
            refuse_map(parts, ids)
            parts.driver.create(id, layer, size=size, id_map=ids, progress=progress)
            with parts.database.writing() as db:
                row = (id, new or free_name(db), one.image_id, one.image, time.time())
                refuse_taken(db, row[1])
                db.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?)", row)
                _stand(db, id, _Standing(layer, None))
                parts.remember_ownership(db)
            agree()
        return container_of((id, row[1], one.image, one.image_id, row[4]), parts)


def remove_checkpoint(parts: Parts, container: str, name: str, wait: bool) -> Checkpoint:
    with dirtying(parts), parts.database.writing() as db:
        one = find_container(db, container, parts)
        gone = _find(db, one, name)
        key = (one.id, name)
        for table, column in (("checkpoints", "parent"), ("standing", "checkpoint")):
            db.execute(
                f"UPDATE {table} SET {column} = ? WHERE container = ? AND {column} = ?",
                (gone.parent, *key),
            )
        db.execute("DELETE FROM checkpoints WHERE container = ? AND name = ?", key)
    collect(parts, wait=wait)
    return gone


def opened(parts: Parts, name: str) -> Container:
    """The container, with its folder, of which no rollback is half done."""
    with parts.database.reading() as db:
        one = find_container(db, name, parts)
    finish(parts, one)
    require_folder(one)
    return one


def named(parts: Parts, text: str) -> tuple[str, str] | None:
    """The container and the checkpoint that ``NAME@CHECKPOINT`` means, if it is no image."""
    name, _, checkpoint = text.partition("@")
    if not checkpoint or "/" in name or ":" in text:
        return None
    with parts.database.reading() as db:
        return (name, checkpoint) if look_for_container(db, name, parts) else None


def layer_of(parts: Parts, text: str) -> tuple[Container, str]:
    """The container that ``NAME`` or ``NAME@CHECKPOINT`` is of, and the layer that it means."""
    name, _, checkpoint = text.partition("@")
    if not checkpoint:
        one = opened(parts, text)
        return one, one.id
    with parts.database.reading() as db:
        one = find_container(db, name, parts)
        return one, _find(db, one, checkpoint).layer


def finish(parts: Parts, container: Container) -> None:
    """Finish the rollback of a container that was cut off, if there is one."""
    if not _is_unfinished(parts, container):
        return
    with making(parts), parts.driver.changing(container.id):
        if _is_unfinished(parts, container):  # still: it may have been going on
            with parts.database.reading() as db:
                to = _standing(db, container)
            _roll_back(parts, container, to, to, None)


def _checkpoint(
    parts: Parts, one: Container, name: str | None, freeze: str | None = None
) -> Checkpoint:
    with parts.database.reading() as db:
        if name is None:
            name = _free_name(db, one)
        elif _look_for(db, one, name) is not None:
            raise TakenNameError(
                f"{one.name}@{name}: there is a checkpoint of this name: take another, or remove it"
            )
    with ExitStack() as freezing:
        if freeze is not None:
            from reflayer.linux.freezer import frozen

            with failing(freeze, "freeze"):
                freezing.enter_context(frozen(freeze))
        with marked(parts) as agree, parts.driver.checkpoint(one.id, new_id()) as made:
            freezing.close()
            with parts.database.writing() as db:
                parent, layer = _standing(db, one).checkpoint, made.layer
                if db.execute("SELECT 1 FROM layers WHERE id = ?", (layer,)).fetchone() is None:
                    add_layer(db, StoredLayer(layer, made.size, {}, parts.driver.lower(layer)))
                # What it lies on may have become whole by now.
                if made.lower is not None and parts.driver.lower(made.lower) is None:
                    db.execute("UPDATE layers SET parent = NULL WHERE id = ?", (made.lower,))
                size = made.size if made.is_new else 0
                row = (one.id, name, layer, parent, time.time(), size)
                db.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?)", row)
                _stand(db, one.id, _Standing(layer, name))
            agree()
    return Checkpoint(name, parent, row[4], size, True, layer)


def _layer_now(parts: Parts, one: Container) -> str:
    """The layer of what a container is; a checkpoint where something has changed."""
    with parts.database.reading() as db:
        before = _standing(db, one)
    made = _checkpoint(parts, one, None)
    if made.layer == before.layer:
        with parts.database.writing() as db:
            db.execute(
                "DELETE FROM checkpoints WHERE container = ? AND name = ?", (one.id, made.name)
            )
            _stand(db, one.id, before)
    return made.layer


def _roll_back(
    parts: Parts, one: Container, before: _Standing, to: _Standing, progress: Progress | None
) -> None:
    with parts.database.writing() as db:
        _stand(db, one.id, to, is_unfinished=True)
    is_in_place = parts.driver.goes_in_place(one.id, to.layer)
    try:
        parts.driver.rollback(one.id, to.layer, progress=progress)
    except CopyError:
        if not is_in_place:  # it is what it was
            with parts.database.writing() as db:
                _stand(db, one.id, before)
        raise
    with parts.database.writing() as db:
        _stand(db, one.id, to)


def _stand(db: Connection, id: str, on: _Standing, *, is_unfinished: bool = False) -> None:
    row = (id, on.layer, on.checkpoint, is_unfinished)
    db.execute("INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?)", row)


def _standing(db: Connection, one: Container) -> _Standing:
    row = db.execute(
        "SELECT layer, checkpoint FROM standing WHERE container = ?", (one.id,)
    ).fetchone()
    if row is None:
        row = db.execute("SELECT layer, NULL FROM images WHERE id = ?", (one.image_id,)).fetchone()
    return _Standing(*row)


def _is_unfinished(parts: Parts, one: Container) -> bool:
    with parts.database.reading() as db:
        return is_unfinished(db, one)


def _find(db: Connection, one: Container, name: str) -> Checkpoint:
    found = _look_for(db, one, name)
    if found is None:
        names = [other.name for other in checkpoints_of(db, one)]
        hint = did_you_mean(name, names) or (f"; there are: {listed(names)}" if names else "")
        raise UnknownNameError(f"{one.name}@{printable(name)}: no such checkpoint{hint}")
    return found


def _look_for(db: Connection, one: Container, name: str) -> Checkpoint | None:
    return next(iter(checkpoints_of(db, one, name)), None)


def _free_name(db: Connection, one: Container) -> str:
    """The next number that none of its checkpoints is called by."""
    [[number]] = db.execute("SELECT count(*) FROM checkpoints WHERE container = ?", (one.id,))
    while True:
        number += 1
        if _look_for(db, one, str(number)) is None:
            return str(number)


def _checked(name: str) -> str:
    try:
        return checked_name(f"c{name}")[1:]
    except StoreError:
        raise StoreError(
            f"{printable(name)!r} is no name for a checkpoint: it takes a-z, A-Z, 0-9, '_', '.' "
            "and '-'"
        ) from None
