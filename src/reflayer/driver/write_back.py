"""A long work writes out to disk beside itself what it makes, and has room for it."""

from __future__ import annotations

from contextlib import contextmanager

from reflayer.driver.home import opened, write_out
from reflayer.driver.spares import make_room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    from threading import Thread  # concurrent.futures takes 8 ms to import

    failed: list[BaseException] = []
    writing: Thread | None = None
    begun = 0

    def come_to(count: int) -> None:
        nonlocal writing, begun
        if count - begun < _AMOUNT or (writing is not None and writing.is_alive()):
            return
        if failed:
            raise failed[0]
        begun = count
        make_room(home)
        writing = Thread(target=write, name="write-back")
        writing.start()

    with opened(path) as folder:

        def write() -> None:
            try:
                write_out(folder, path)
            except BaseException as error:
                failed.append(error)

        try:
            yield come_to
        finally:
            if writing is not None:
                writing.join()
        if failed:
            raise failed[0]  # an error that syncfs(2) has told once, it does not tell again
