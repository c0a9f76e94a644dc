"""A long work writes out to disk beside itself what it makes, and has room for it."""

from __future__ import annotations

from contextlib import contextmanager

from reflayer.driver.home import opened, write_out
from reflayer.driver.spares import make_room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

_AMOUNT = 8 << 20  # bytes: less takes no time worth a thread


@contextmanager
def writing_back(path: str, home: str) -> Iterator[Callable[[int], None]]:
    """Write out the file system of the folder ``path`` in ``home`` beside the block that fills it.

    So little is left to be waited for at the end, when the caller has to write out once more. And
    should the disk get full, spares give way.

    Yields:
        What is to be called, now and then, with how many bytes have come; it raises what could not
        be written.
    """
    from concurrent.futures import ThreadPoolExecutor

    writing: Future[None] | None = None
    begun = 0
    with opened(path) as folder, ThreadPoolExecutor(1, "write-back") as thread:

        def come_to(count: int) -> None:
            nonlocal writing, begun
            if count - begun < _AMOUNT or not (writing is None or writing.done()):
                return
            if writing is not None:
                writing.result()
            begun = count
            make_room(home)
            writing = thread.submit(write_out, folder, path)

        yield come_to
        if writing is not None:
            writing.result()  # an error that syncfs(2) has told once, it does not tell again
