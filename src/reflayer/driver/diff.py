"""What changed in a layer since its parent: as a list, and as an OCI layer to be read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TypeVar

from reflayer.errors import LayerError, OperationError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from _typeshed import WriteableBuffer

    from reflayer.archive import Change
    from reflayer.driver.driver import Driver

Item = TypeVar("Item")


def layer_changes(
    driver: Driver, id: str, parent: str | None, cloned: float | None
) -> Iterator[Change]:
    """What ``Driver.changes`` returns."""
    from reflayer.archive import changes

    root, before = _paths(driver, id, parent)
    return _while_there(driver, id, parent, changes(root, before, cloned=cloned))


def layer_diff(
    driver: Driver, id: str, parent: str | None, cloned: float | None
) -> io.BufferedReader:
    """What ``Driver.diff`` returns."""
    from reflayer.archive import pack_layer

    root, before = _paths(driver, id, parent)
    chunks = _while_there(driver, id, parent, pack_layer(root, before, cloned=cloned))
    return io.BufferedReader(_Stream(chunks))


def _paths(driver: Driver, id: str, parent: str | None) -> tuple[str, str | None]:
    return driver.path(id), None if parent is None else driver.path(parent)


def _while_there(
    driver: Driver, id: str, parent: str | None, items: Iterable[Item]
) -> Generator[Item, None, None]:
    """The items, and at their end or failure an error if one of the layers was removed meanwhile.

    Its own deletion may have emptied folders before they were read.
    """
    try:
        yield from items
    except OperationError as error:
        _check(driver, id, parent, error)
        raise
    _check(driver, id, parent, None)


def _check(driver: Driver, id: str, parent: str | None, cause: OperationError | None) -> None:
    for layer in (id, parent):
        if layer is not None and not driver.exists(layer):
            raise LayerError(f"layer {layer} was removed while it was being compared") from cause


class _Stream(io.RawIOBase):
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
