"""A driver's folder: ``dir/`` with the layers, ``tmp/`` with those being built, ``trash/``."""

from __future__ import annotations

import errno
import os

from reflayer.errors import OperationError
from reflayer.linux.mkdir import make_folders

LAYERS = "dir"
"""The folder of the layers, as in Docker's vfs driver."""

BUILDS = "tmp"
"""The folder in which layers are built."""

TRASH = "trash"
"""The folder of what is to be deleted."""

CLONED = "cloned"
"""The folder of the notes of when layers were cloned, in one for the machine's boot."""

FOLDED = "folded"
"""The folder of the differences of layers that are folded up."""

FOLDED_LOCK = "folded.lock"
"""The file that is locked while a layer is folded up or unfolded."""

TRASH_LOCK = "trash.lock"
"""The file that is locked by the process which empties the trash."""

PUBLISH_LOCK = "publish.lock"
"""The file that is locked to publish a layer where the file system has no RENAME_NOREPLACE."""

QUOTA_LOCK = "quota.lock"
"""The file that is locked while a layer gets a quota."""

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")


def make_home(home: str, group: int | None) -> None:
    """Make the folder ``home`` and those in it, where they are absent; only the owner gets in.

    A ``group`` may pass through to the layers: that of containers' root in a user namespace.

    Raises:
        OperationError: one of them cannot be made.
    """
    try:
        make_folders(home, 0o700)
        for name in (TRASH_LOCK, FOLDED_LOCK):  # now: on a full disk they could not be made
            if not os.path.exists(f"{home}/{name}"):
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(f"{home}/{name}", flags, 0o600))
        for name in (LAYERS, BUILDS, TRASH, FOLDED):
            _make_folder(f"{home}/{name}")
        if group is not None:
            for path in (home, f"{home}/{LAYERS}"):
                os.chown(path, -1, group)
                os.chmod(path, 0o710)
    except OSError as error:
        where = os.fsencode(error.filename or home)
        raise OperationError.from_os_error(error, where, "make the driver's folder") from error


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    # Layers are made in here: they must not take their group or an ACL from it.
    os.chown(path, -1, os.getegid())
    os.chmod(path, 0o700)
    for attribute in _ACLS:
        try:
            os.removexattr(path, attribute)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
