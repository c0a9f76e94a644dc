"""The removal of a layer that may be recycled: it is a spare then, or waits to be one, or goes."""

from __future__ import annotations

from reflayer.driver import spares
from reflayer.driver.create import building
from reflayer.driver.home import unlink
from reflayer.driver.recycle import CannotError, make_spare, recyclable
from reflayer.driver.trash import discard
from reflayer.driver.trees import withdraw
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.clone_times import Clone
    from reflayer.driver.home import Making


@record
class Removed:
    """What became of a layer.

    Attributes:
        trash: where in the trash is what has to be deleted.
        layer: of which it is a spare, or to be one; None for none.
        reason: why it is none.
    """

    trash: list[str]
    layer: str | None
    reason: str


def recycle(home: str, id: str, making: Making, *, behind: bool) -> Removed | None:
    """Let layer ``id`` be a spare, now or by who makes spares, ``behind``; else it is in the trash.

    Behind that is only done where a spare is missing. The layer is gone in any case; None, and
    nothing done, where others lie on it.
    """
    layer, reason = None, ""
    try:
        clone = recyclable(home, id, making)
        if behind:
            trash = _set_aside(home, id, clone)
            return None if trash is None else Removed(trash, clone.layer, "")
        with building(home, clone.layer) as path:
            trash = withdraw(home, id, to=path)
            if trash is None:
                return None
            try:
                make_spare(home, path, id, clone, making, lambda undo: undo())
                layer = clone.layer
            except CannotError as error:
                reason = str(error)
                trash.append(discard(path, home) or "")
    except CannotError as error:
        trash, reason = withdraw(home, id), str(error)
    return None if trash is None else Removed([*filter(None, trash)], layer, reason)


def _set_aside(home: str, id: str, clone: Clone) -> list[str] | None:
    """Move layer ``id`` to where it waits to be a spare, as ``withdraw``."""
    if not spares.lacks(home, clone.layer, clone.made_by):
        raise CannotError("no more spares are wanted")
    used = spares.new_used(home, clone.layer, id, clone.made_by)
    if used is None:
        raise CannotError("it is gone")
    trash = None
    try:
        trash = withdraw(home, id, to=used)
    finally:
        if trash is None:
            unlink(spares.note_of(used))
    return trash
