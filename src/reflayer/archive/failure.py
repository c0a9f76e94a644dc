"""What a failed system call says: that the archive asks for what cannot be, or the system's own."""

from __future__ import annotations

import errno
import os

from reflayer.errors import ArchiveError, OperationError

_ARCHIVE_FAULTS = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EFBIG})


class FailedError(Exception):
    """A system call on a path that whoever catches this knows failed.

    Attributes:
        operation: the system call, or a few words.
        cause: how it failed.
    """

    def __init__(self, operation: str, cause: OSError) -> None:
        super().__init__(operation, cause)
        self.operation = operation
        self.cause = cause


def failure(
    error: OSError, root: bytes, path: bytes, operation: str
) -> ArchiveError | OperationError:
    """The error for ``operation`` on ``path`` in the layer's ``root``."""
    if error.errno in _ARCHIVE_FAULTS:
        return ArchiveError(f"{operation}: {error.strerror}", path)
    return OperationError.from_os_error(error, os.path.join(root, path), operation)
