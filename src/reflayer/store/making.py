"""What somebody makes in a store is not collected before it is on record."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress

from reflayer.errors import ReflayerError
from reflayer.store.collect import collect
from reflayer.store.locks import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.store.parts import Parts


@contextmanager
def making(parts: Parts) -> Iterator[ExitStack]:
    """Share the store's lock while the block runs; what it leaves is collected after that.

    Yields:
        What gets all that has to be held until the end of the block.

    Raises:
        ReflayerError: the store cannot be made, or be brought in order first.
    """
    parts.make_folders()
    with parts.database.kept_open():
        collect(parts)
        try:
            with locked(parts.lock, shared=True), ExitStack() as until:
                yield until
        finally:
            with suppress(ReflayerError):  # then the next start tells, before it makes anything
                collect(parts)
