"""SELinux: what a container may do with its files is told by their labels (selinux(8))."""

from __future__ import annotations

import errno
import os

from reflayer.errors import OperationError

_ENFORCE = "/sys/fs/selinux/enforce"  # there where the kernel has SELinux enabled
_ATTRIBUTE = "security.selinux"


def set_label(path: str, label: str) -> None:
    """Label the folder ``path`` where the kernel has SELinux enabled and the file system labels.

    What is made in it later gets its label from that.

    Raises:
        OperationError: it cannot be labelled.
    """
    if not os.path.exists(_ENFORCE):
        return
    try:
        os.setxattr(path, _ATTRIBUTE, os.fsencode(label) + b"\0", follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise OperationError.from_os_error(error, os.fsencode(path), "label") from error
