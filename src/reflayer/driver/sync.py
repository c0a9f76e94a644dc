"""What is recorded has to be on disk: written out by the whole file system, not file by file."""

from __future__ import annotations

import os
from contextlib import contextmanager

from reflayer.errors import failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

_AMOUNT = 8 << 20  # bytes: less takes no time worth a thread


@contextmanager
def opened(path: str) -> Iterator[int]:
    """The folder ``path``, open while the block runs.

    Open it before anything is written: syncfs(2) tells each open file the errors since then.

    Raises:
        OperationError: it cannot be opened.
    """
    with failing(path, "open"):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def write_out(fd: int, path: str) -> None:
    """Write out the file system of the open folder ``fd``; ``path`` is for the error.

    Raises:
        OperationError: something could not be written.
    """
    from reflayer.linux.syncfs import syncfs

    with failing(path, "syncfs"):
        syncfs(fd)


def write_name(folder: int, path: str) -> None:
    """Write out the name ``path``, which has just been made in the open ``folder``.

    Raises:
        OperationError: it could not be written.
    """
    with failing(path, "fsync"):
        os.fsync(folder)


@contextmanager
def writing_back(path: str) -> Iterator[Callable[[int], None]]:
    """Write out the file system of the folder ``path`` beside the block, which fills it.

    So little is left to be waited for at the end, when the caller has to write out once more.

    Yields:
        What is to be called, now and then, with how many bytes have come. It raises as this does.

    Raises:
        OperationError: something could not be written.
    """
    from concurrent.futures import ThreadPoolExecutor

    writing: Future[None] | None = None
    begun = 0
    with opened(path) as folder, ThreadPoolExecutor(1, "write-back") as thread:

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
