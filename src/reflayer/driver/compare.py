"""What a layer has that another has not: a difference tells it itself, else they are compared."""

from __future__ import annotations

import io
from contextlib import contextmanager

from reflayer.driver.clone_times import origins
from reflayer.driver.differences import (
    level,
    lower,
    make_difference,
    require,
    stack,
    upper_path,
)
from reflayer.driver.home import layer_path, opened
from reflayer.driver.maps import map_of
from reflayer.driver.trash import delete_behind
from reflayer.driver.trees import hold, let_go
from reflayer.errors import LayerError, OperationError
from reflayer.record import record
from reflayer.workers.lock import is_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import TypeVar

    from _typeshed import WriteableBuffer

    from reflayer.driver.home import Making
    from reflayer.walk.id_map import IdMap
    from reflayer.walk.stack import Stack

    Item = TypeVar("Item")


@record
class Sides:
    """A layer, and what it is told from.

    Attributes:
        root: the folder of the layer: its tree; or that of a difference, if it ``is_difference``.
        parent: what it is told from; None for nothing at all.
        cloned: when ``root`` was a complete clone of that, as ``changes`` takes it.
        id_map: what the ids in ``root`` are in an image, and in ``parent``; None: the same.
        is_difference: ``root`` lies on ``parent``, and has all that is different.
    """

    root: str
    parent: Stack | None
    cloned: float | None
    is_difference: bool
    id_map: IdMap | None = None


@contextmanager
def compared(home: str, id: str, parent: str | None, making: Making) -> Iterator[Sides]:
    """Layer ``id`` and ``parent`` while the block runs.

    Raises:
        LayerError: one of them is not there; or, at the block's end or failure, was removed.
    """
    for layer in (id, parent):
        if layer is not None:
            require(home, layer)
    between = None if parent is None else _between(home, id, parent)
    if between:
        with _joined(home, between, making) as upper:
            yield Sides(upper, None if parent is None else stack(home, parent), None, True)
        return
    is_difference = parent is not None and lower(home, id) == parent
    held = None if is_difference else hold(home, id, making)
    try:
        root = upper_path(home, id) if is_difference else layer_path(home, id)
        id_map = map_of(home, id)
        below = None if parent is None else stack(home, parent, id_map)
        cloned = None
        if parent is not None and held is None and not is_difference:
            cloned = cloned_at(home, id, parent)
        with opened(root) as fd:
            failed = None
            try:
                yield Sides(root, below, cloned, is_difference, id_map)
            except OperationError as error:
                failed = error
            # Its own deletion may have emptied folders before they were read.
            is_gone = not is_at(root, fd)
            if is_gone or (parent is not None and _stack(home, parent, id_map) != below):
                gone = id if is_gone else parent
                raise LayerError(
                    f"layer {gone} was removed while it was being compared"
                ) from failed
            if failed is not None:
                raise failed
    except OperationError:
        require(home, id)  # it may have gone before it was open
        raise
    finally:
        if held is not None and let_go(home, id, held, drop=True):
            delete_behind(home)


def _between(home: str, id: str, parent: str) -> list[str]:
    """The checkpoints from ``id`` down to ``parent``, if they are several; else none."""
    between = []
    at: str | None = id
    while at is not None and at != parent:
        if level(home, at) is None:
            return []
        between.append(at)
        at = lower(home, at)
    return between if at == parent and len(between) > 1 else []


@contextmanager
def _joined(home: str, layers: list[str], making: Making) -> Iterator[str]:
    """The folder of the one difference that some are together, while the block runs."""
    from reflayer.archive.join import join
    from reflayer.driver.create import building
    from reflayer.driver.trash import delete

    with building(home, layers[0]) as path:
        upper = make_difference(path, None, is_new=False)
        uppers = [upper_path(home, layer) for layer in layers]
        try:
            join(uppers, upper, method=making.method, ownership=making.ownership)
        except OperationError:
            for layer in layers:
                require(home, layer)
            raise
        yield upper
        delete(path)


def while_compared(
    home: str,
    id: str,
    parent: str | None,
    making: Making,
    walk: Callable[[Sides], Iterable[Item]],
) -> Generator[Item, None, None]:
    """What ``walk`` tells; the layers have to be there now, and are looked at when it begins."""
    for layer in (id, parent):
        if layer is not None:
            require(home, layer)

    def told() -> Generator[Item, None, None]:
        with compared(home, id, parent, making) as sides:
            yield from walk(sides)

    return told()


def cloned_at(home: str, id: str, parent: str) -> float | None:
    """When the whole layer ``id`` was a complete clone of ``parent``, as far as that is known.

    That may be long before it was the same as another one, as with checkpoints.
    """
    found = origins(home, id, layer_path(home, id))
    return found.get(parent)


def _stack(home: str, id: str, id_map: IdMap | None) -> Stack | None:
    try:
        return stack(home, id, id_map)
    except LayerError:
        return None


class Stream(io.RawIOBase):
    """Chunks as a file to be read; closing it ends the walk that they come from."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        piece = self._rest[: len(view)]
        view[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)

    def close(self) -> None:
        self._chunks.close()
        super().close()
