"""The sockets of a folder that was taken in, which no layer has."""

from __future__ import annotations

import os
import stat

from reflayer.errors import OperationError


def remove_sockets(root: str) -> None:
    """Make the tree ``root`` what unpacking its layer would have made: all but the sockets in it.

    Raises:
        OperationError: something cannot be read or removed.
    """
    from reflayer.archive.walk import Walk

    for found in Walk(os.fsencode(root), None, None):
        if found.name and stat.S_ISSOCK(found.status.st_mode):
            times = (found.folder.status.st_atime_ns, found.folder.status.st_mtime_ns)
            try:
                os.unlink(found.name, dir_fd=found.folder.new)
                os.utime(found.folder.new, ns=times)
            except OSError as error:
                path = os.path.join(os.fsencode(root), found.folder.path(found.name))
                raise OperationError.from_os_error(error, path, "unlink") from error
