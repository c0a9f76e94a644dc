"""What changed in a layer since its parent: as a list, and as an OCI layer to be read."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TypeVar

from reflayer.errors import LayerError, OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from _typeshed import WriteableBuffer

    from reflayer.archive import Change, IdMap, Usage
    from reflayer.driver.driver import Driver

Item = TypeVar("Item")


def layer_changes(driver: Driver, id: str, parent: str | None) -> Iterator[Change]:
    """What ``Driver.changes`` returns."""
    from reflayer.archive import changes

    root, before, cloned = _trees(driver, id, parent)
    return _while_there(driver, id, parent, changes(root, before, cloned=cloned))


def layer_diff(
    driver: Driver, id: str, parent: str | None, id_map: IdMap | None
) -> io.BufferedReader:
    """What ``Driver.diff`` returns."""
    from reflayer.archive import pack_layer

    root, before, cloned = _trees(driver, id, parent)
    packing = pack_layer(root, before, cloned=cloned, id_map=id_map)
    chunks = _while_there(driver, id, parent, packing)
    return io.BufferedReader(_Stream(chunks))


def layer_size(driver: Driver, id: str, parent: str | None) -> int:
    """What ``Driver.diff_size`` returns."""
    from reflayer.archive import changed_size

    root, before, cloned = _trees(driver, id, parent)
    with _staying(driver, id, parent):
        return changed_size(root, before, cloned=cloned)


def layer_usage(driver: Driver, id: str, parent: str | None) -> Usage:
    """What ``Driver.usage`` returns; without a parent, of all that is in the layer."""
    from reflayer.archive import changed_usage

    root, before, cloned = _trees(driver, id, parent)
    with _staying(driver, id, parent):
        return changed_usage(root, before, cloned=cloned)


def _trees(driver: Driver, id: str, parent: str | None) -> tuple[str, str | None, float | None]:
    """Both paths, and when one was cloned from the other."""
    root = driver.path(id)
    if parent is None:
        return root, None, None
    before = driver.path(parent)
    return root, before, driver.cloned(id, parent)


def _while_there(
    driver: Driver, id: str, parent: str | None, items: Iterable[Item]
) -> Generator[Item, None, None]:
    with _staying(driver, id, parent):
        yield from items


@contextmanager
def _staying(driver: Driver, id: str, parent: str | None) -> Iterator[None]:
    """At the block's end or failure an error if one of the layers was removed meanwhile.

    Its own deletion may have emptied folders before they were read.
    """
    try:
        yield
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
