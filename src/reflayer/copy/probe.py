"""Whether a method can copy from one folder's file system to another's: found out by trying."""

from __future__ import annotations

import errno
import os

from reflayer.copy.content import copy_file_range, ficlone
from reflayer.walk.facts import OF_THE_DATA
from reflayer.walk.folders import OPEN_FILE, OPEN_FOLDER, open_noatime
from reflayer.walk.mounts import is_mounted

_DEPTH = 32  # levels that are searched for a file to try with
_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})


def why_not(method: str, src: int, dst: int) -> OSError | None:
    """The error that ``method`` meets between two folders, or None where it works.

    Tried with a file of the source, which is only read, and a nameless one of the destination.

    Args:
        method: ``reflink``, ``range`` or ``stream``.
        src: open folder; searched for a file that is not empty, on its own file system only.
            Without one everything works.
        dst: open folder on the destination's file system, which is left as it was.

    Raises:
        OSError: the source cannot be read or the destination not be written for another reason.
    """
    file = -1 if method == "stream" else _first_file(src, os.fstat(src).st_dev, _DEPTH)
    if file < 0:
        return None
    try:
        scratch = _scratch_file(dst)
        try:
            if method == "reflink":
                ficlone(scratch, file)
            else:
                copy_file_range(file, scratch, 1, 0)
        except OSError as error:
            if error.errno in OF_THE_DATA:
                raise
            return error
        finally:
            os.close(scratch)
    finally:
        os.close(file)
    return None


def _first_file(folder: int, device: int, depth: int) -> int:
    """Open the first regular file with content below ``folder``; -1 where there is none."""
    folders = []
    if os.fstat(folder).st_dev != device:  # a subvolume
        return -1
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size:
                return open_noatime(entry.name, folder, OPEN_FILE)
    for name in folders if depth else ():
        if is_mounted(folder, name):
            continue
        child = open_noatime(name, folder, OPEN_FOLDER)
        try:
            file = _first_file(child, device, depth - 1)
        finally:
            os.close(child)
        if file >= 0:
            return file
    return -1


def _scratch_file(folder: int) -> int:
    """A file without a name in the open ``folder`` (open(2): O_TMPFILE), for writing."""
    try:
        if hasattr(os, "O_TMPFILE"):
            return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    name = f".reflayer-{os.urandom(8).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    os.unlink(name, dir_fd=folder)
    return fd
