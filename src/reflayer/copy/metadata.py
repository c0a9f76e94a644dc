"""Owner, extended attributes, mode and times of one inode, set in the order that keeps them all.

chown(2) takes setuid bits and file capabilities away, so it comes first; an access ACL brings its
own group bits, so the mode follows the attributes; the times come last.
"""

from __future__ import annotations

import errno
import os
import stat

from reflayer.copy.refusals import Refusals
from reflayer.errors import printable
from reflayer.linux.chmod import chmod_at
from reflayer.linux.xattrs import getxattr_at, is_of_tree, listxattr_at, setxattr_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy.birth import Birth

_SPECIAL_BITS = 0o7000
# XFS lists its own form of an ACL beside the portable one; elsewhere it would mean nothing.
_TWICE = frozenset({"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"})


class FailedError(Exception):
    """One system call of a copy failed: which one, and how."""

    def __init__(self, operation: str, cause: OSError) -> None:
        super().__init__(operation, cause)
        self.operation = operation
        self.cause = cause


class Metadata(Refusals):
    """Gives copies the metadata of their originals."""

    def __init__(self, birth: Birth, ignore_refused: bool) -> None:
        """``ignore_refused`` is what ``ownership="ignore"`` means."""
        super().__init__(ignore_refused)
        self._birth = birth

    def creation_mode(self, mode: int, attributes: list[str]) -> int:
        """The mode to create a file with: its own, unless setting ``attributes`` needs more.

        A ``user`` attribute needs write permission by mode, even on a descriptor open for writing
        (xattr(7)).
        """
        mode &= 0o777  # a setuid bit must not stand beside the wrong owner, even for a moment
        return mode | 0o600 if attributes and not self._birth.powerful else mode

    def finish_file(
        self, src: int, dst: int, status: os.stat_result, attributes: list[str]
    ) -> None:
        """Set all of a new regular file ``dst`` from ``src``, whose xattr names are given.

        Raises:
            FailedError: a call failed.
            OSError: the times could not be set.
        """
        birth = self._birth
        mode = status.st_mode
        if status.st_uid != birth.uid or status.st_gid != birth.gid:
            self._chown(dst, status)
        if attributes:
            self._copy_attributes(attributes, src, dst)
        if attributes or mode & (birth.withheld | _SPECIAL_BITS):
            self._chmod(dst, mode & 0o7777)
        os.utime(dst, ns=(status.st_atime_ns, status.st_mtime_ns))

    def finish_folder(
        self, src: int, dst: int, status: os.stat_result, mode: int, made_with: int
    ) -> None:
        """Set all of a folder ``dst`` that has mode ``made_with``: as ``src``, but with ``mode``.

        Where ``src`` is -1 there are no attributes.

        Raises:
            FailedError: a call failed.
        """
        if status.st_uid != self._birth.uid or status.st_gid != self._birth.gid:
            self._chown(dst, status)
        attributes = list_attributes(src) if src >= 0 else []
        if attributes:
            self._copy_attributes(attributes, src, dst)
        if attributes or mode != made_with:
            self._chmod(dst, mode)
        try:
            os.utime(dst, ns=(status.st_atime_ns, status.st_mtime_ns))
        except OSError as error:
            raise FailedError("set its times", error) from error

    def finish_at(self, name: bytes, src: int, dst: int, status: os.stat_result) -> None:
        """Set all of ``name`` in the folder ``dst``, a link or special file, from that in ``src``.

        Raises:
            FailedError: a call failed.
            OSError: the times could not be set.
        """
        if status.st_uid != self._birth.uid or status.st_gid != self._birth.gid:
            try:
                os.chown(name, status.st_uid, status.st_gid, dir_fd=dst, follow_symlinks=False)
            except OSError as error:
                if not self.refused("owner", error):
                    raise FailedError("chown", error) from error
        attributes = list_attributes_at(src, name)
        for attribute in attributes:
            self._copy_attribute(
                attribute,
                lambda a: getxattr_at(src, name, a),
                lambda a, value: setxattr_at(dst, name, a, value),
            )
        mode = status.st_mode
        if not stat.S_ISLNK(mode) and (attributes or mode & (self._birth.withheld | _SPECIAL_BITS)):
            self.chmod_at(dst, name, mode & 0o7777)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=dst, follow_symlinks=False)

    def _chown(self, dst: int, status: os.stat_result) -> None:
        try:
            os.chown(dst, status.st_uid, status.st_gid)
        except OSError as error:
            if not self.refused("owner", error):
                raise FailedError("chown", error) from error

    def _chmod(self, dst: int, mode: int) -> None:
        try:
            os.chmod(dst, mode)
        except OSError as error:
            raise FailedError("chmod", error) from error

    def chmod_at(self, dst: int, name: bytes, mode: int) -> None:
        """Set the mode of ``name``, which is no symbolic link, in the open folder ``dst``.

        Raises:
            FailedError: a call failed.
        """
        try:
            chmod_at(dst, name, mode)
        except OSError as error:
            raise FailedError("chmod", error) from error

    def _copy_attributes(self, attributes: list[str], src: int, dst: int) -> None:
        for attribute in attributes:
            self._copy_attribute(
                attribute,
                lambda a: os.getxattr(src, a),
                lambda a, value: os.setxattr(dst, a, value),
            )

    def _copy_attribute(
        self, attribute: str, get: Callable[[str], bytes], put: Callable[[str, bytes], None]
    ) -> None:
        value = read_attribute(attribute, get)
        if value is None:
            self.skip("xattr")
            return
        try:
            put(attribute, value)
        except OSError as error:
            if not self.refused_attribute(attribute, error):
                raise FailedError(f"setxattr {printable(attribute)}", error) from error


def read_attribute(attribute: str, get: Callable[[str], bytes]) -> bytes | None:
    """The value that ``get`` has of ``attribute``; None where a reader cannot have it.

    Raises:
        FailedError: it cannot be read, and is the tree's own.
    """
    try:
        return get(attribute)
    except OSError as error:
        # xattr(7): not found is also what trusted ones are to who may not read them.
        if error.errno == errno.ENODATA or not is_of_tree(attribute):
            return None
        raise FailedError(f"getxattr {printable(attribute)}", error) from error


def list_attributes(fd: int) -> list[str]:
    """The names of an open file's extended attributes; none where the file system has none.

    Raises:
        FailedError: they cannot be listed.
    """
    try:
        names = os.listxattr(fd)
        return [name for name in names if name not in _TWICE] if names else names
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise FailedError("listxattr", error) from error


def list_attributes_at(dir_fd: int, name: bytes) -> list[str]:
    """The same for ``name`` itself in an open folder.

    Raises:
        FailedError: they cannot be listed.
    """
    try:
        names = listxattr_at(dir_fd, name)
        return [name for name in names if name not in _TWICE] if names else names
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise FailedError("listxattr", error) from error


if not hasattr(os, "listxattr"):  # a platform whose os module has no extended attributes

    def list_attributes(fd: int) -> list[str]:  # noqa: ARG001
        return []

    def list_attributes_at(dir_fd: int, name: bytes) -> list[str]:  # noqa: ARG001
        return []
