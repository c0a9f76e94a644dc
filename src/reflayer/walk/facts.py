"""What an entry of a tree is besides its name: metadata, extended attributes, where its data is."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.errors import printable
from reflayer.linux.xattrs import is_of_tree, path_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OF_THE_DATA = frozenset(
    {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
)
"""The errors of the data, of the room for it and of its medium: no other way to move it helps."""

# XFS lists its own form of an ACL beside the portable one; elsewhere it would mean nothing.
_TWICE = frozenset({"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"})


class FailedError(Exception):
    """One system call on an entry failed.

    Attributes:
        operation: the call, or what it was for.
        cause: how it failed.
    """

    def __init__(self, operation: str, cause: OSError) -> None:
        super().__init__(operation, cause)
        self.operation = operation
        self.cause = cause


class SizeChangedError(Exception):
    """A file's size is no longer what it was when the work on it began."""

    def __str__(self) -> str:
        return "its size changed during the copy"


class Facts:
    """What ``Metadata`` sets; an entry of an archive has all of it, too.

    Attributes:
        uid, gid: owner and group.
        mode: permission bits with setuid, setgid and sticky.
        atime, mtime: nanoseconds since the epoch.
        attributes: extended attributes by name.
    """

    __slots__ = ("atime", "attributes", "gid", "mode", "mtime", "uid")

    def __init__(self, status: os.stat_result, attributes: Mapping[str, bytes]) -> None:
        self.uid = status.st_uid
        self.gid = status.st_gid
        self.mode = stat.S_IMODE(status.st_mode)
        self.atime = status.st_atime_ns
        self.mtime = status.st_mtime_ns
        self.attributes = attributes


def changed_status(status: os.stat_result, fields: Mapping[int, int]) -> os.stat_result:
    """The status with others of its first ten fields."""
    values = [fields.get(at, value) for at, value in enumerate(status)]
    others = status.__reduce__()[1][1]  # times in nanoseconds, and what has no place in the tuple
    assert isinstance(others, dict)
    return os.stat_result(values, others)


def list_attributes(file: int | bytes, *, follow: bool = True) -> list[str]:
    """The names of a file's extended attributes; none where the file system has none."""
    try:
        names = os.listxattr(file, follow_symlinks=follow)
        return [name for name in names if name not in _TWICE] if names else names
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise FailedError("listxattr", error) from error


def read_attributes(
    fd: int, names: list[str], skip: Callable[[str], None] | None = None
) -> dict[str, bytes]:
    """The values of those extended attributes of an open file that are the tree's own.

    With ``skip`` those of the system are among them, and it is called with ``xattr`` for each that
    may not be read. FailedError: one of the tree's own cannot be read.
    """
    return _read(names, lambda name: os.getxattr(fd, name), skip) if names else {}


def read_attributes_at(
    dir_fd: int, name: bytes, skip: Callable[[str], None] | None = None
) -> dict[str, bytes]:
    """List and read the extended attributes of ``name`` itself in an open folder."""
    path = path_at(dir_fd, name)
    names = list_attributes(path, follow=False)
    return _read(names, lambda attribute: os.getxattr(path, attribute, follow_symlinks=False), skip)


def _read(
    names: list[str], get: Callable[[str], bytes], skip: Callable[[str], None] | None
) -> dict[str, bytes]:
    found = {}
    for name in sorted(names):
        if skip is None and not is_of_tree(name):
            continue
        try:
            found[name] = get(name)
        except OSError as error:
            # xattr(7): not found is also what trusted ones are to who may not read them.
            if error.errno != errno.ENODATA and is_of_tree(name):
                raise FailedError(f"getxattr {printable(name)}", error) from error
            if skip is not None:
                skip("xattr")
    return found


if not hasattr(os, "listxattr"):  # a platform whose os module has no extended attributes

    def list_attributes(file: int | bytes, *, follow: bool = True) -> list[str]:  # noqa: ARG001
        return []


def data_extents(src: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of ``src`` below ``size`` that holds data (lseek(2): SEEK_DATA).

    Raises:
        SizeChangedError: it has become shorter.
    """
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    start = 0
    while start < size:
        try:
            start = os.lseek(src, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # lseek(2): nothing but a hole up to the end
                return
            if error.errno in OF_THE_DATA:
                raise
            yield start, size  # a file system that does not know holes
            return
        try:
            end = min(os.lseek(src, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == errno.ENXIO:  # it ends before ``start`` now
                raise SizeChangedError from error
            raise
        if start >= end:
            return
        yield start, end
        start = end
