"""What a failed system call says: that the archive asks for what cannot be, or the system's own."""

from __future__ import annotations

import errno
import os

from reflayer.copy.metadata import FailedError as FailedError
from reflayer.errors import ArchiveError, OperationError

_ARCHIVE_FAULTS = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EFBIG})


def failure(
    error: OSError, root: bytes, path: bytes, operation: str
) -> ArchiveError | OperationError:
    """The error for ``operation`` on ``path`` in the layer's ``root``."""
    if error.errno in _ARCHIVE_FAULTS:
        return ArchiveError(f"{operation}: {error.strerror}", path)
    return OperationError.from_os_error(error, os.path.join(root, path), operation)
