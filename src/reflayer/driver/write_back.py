"""What is being written goes to disk meanwhile, so that little is left to wait for at the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from reflayer.driver.durable import write_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

_AMOUNT = 8 << 20  # bytes: less takes no time worth a thread


@contextmanager
def writing_back(folder: int, path: str) -> Iterator[Callable[[int], None]]:
    """Write out the file system of the open ``folder`` beside the block.

    What comes after the last of it is left to the caller, who has to write out once more. The block
    calls what it gets with how many bytes it has come to; ``path`` is for the error.

    Raises:
        OperationError: something could not be written since ``folder`` was opened. The call in the
            block tells it, too.
    """
    writing: Future[None] | None = None
    begun = 0
    with ThreadPoolExecutor(1, "write-back") as thread:

        def come_to(count: int) -> None:
            nonlocal writing, begun
            if count - begun < _AMOUNT:
                return
            if writing is not None:
                if not writing.done():
                    return
                writing.result()
            begun = count
            writing = thread.submit(write_out, folder, path)

        yield come_to
        if writing is not None:
            writing.result()  # an error that syncfs(2) has told once, it does not tell again
