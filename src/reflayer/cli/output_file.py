"""A file that a command writes: complete under its name, or not there."""

from __future__ import annotations

import os
from contextlib import contextmanager

from reflayer.errors import OperationError
from reflayer.images.content.temp_file import replacement

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
    try:
        with open(path, "wb") if is_special else replacement(path) as file:
            yield file
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "write") from error
