"""A file that a command writes: complete under its name, or not there."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


@contextmanager
def output_file(path: str) -> Iterator[BinaryIO]:
    """The file ``path``, open for writing; if the block fails, all is as before.

    What is there and no regular file, a pipe or device, is written to as it is.

    Raises:
        OperationError: it cannot be made or written.
    """
    is_special = os.path.exists(path) and not os.path.isfile(path)
    place = os.path.realpath(path)  # of a link, the file that it leads to is replaced
    passing = path if is_special else f"{place}.{os.urandom(6).hex()}"
    try:
        if is_special:
            with open(path, "wb") as file:
                yield file
        else:
            try:
                with open(passing, "xb") as file:
                    yield file
                os.replace(passing, place)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(passing)
                raise
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "write") from error
