"""Owner, extended attributes, mode and times of one inode, set in the order that keeps them all.

chown(2) takes setuid bits and file capabilities away, so it comes first; an access ACL brings its
own group bits, so the mode follows the attributes; the times come last. What a new inode has from
the moment it is made is learned once and then not set.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from reflayer.errors import printable
from reflayer.linux.xattrs import is_of_tree, path_at
from reflayer.walk.facts import OF_THE_DATA, FailedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    class Facts(Protocol):
        """What ``reflayer.walk.facts.Facts`` has, or an entry of an archive."""

        uid: int
        gid: int
        mode: int
        atime: int
        mtime: int
        attributes: Mapping[str, bytes]


REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL})
"""The errors that owners, devices and attributes are refused with."""

OWNERSHIPS = ("keep", "record", "ignore")
"""What becomes of what is refused: an error, a record beside it (``walk.recorded``), nothing."""

_NAMED = getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC


class NewInode:
    """What an inode has when this process has just made it in a tree.

    Attributes:
        uid: its owner.
        gid: its group.
        umask: the permission bits that it does not get.
        powerful: permission bits do not bind this process (capabilities(7): CAP_DAC_OVERRIDE).
    """

    __slots__ = ("gid", "powerful", "uid", "umask")

    def __init__(self, folder: int) -> None:
        """Learn it by making a folder in the open ``folder`` and looking at it.

        So an NFS server that changes owners, a file system that hands groups down and a umask that
        another thread has set all show.
        """
        probe = f".reflayer-{os.urandom(8).hex()}"
        os.mkdir(probe, 0o777, dir_fd=folder)
        try:
            status = os.stat(probe, dir_fd=folder, follow_symlinks=False)
            self.powerful = os.geteuid() == 0 and _may_all(probe, folder)
        finally:
            os.rmdir(probe, dir_fd=folder)
        self.uid = status.st_uid
        self.gid = status.st_gid
        self.umask = 0o777 & ~status.st_mode

    def creation_mode(self, mode: int, has_attributes: bool) -> int:
        """The mode to make a file with: its own, or more where its attributes need it.

        A ``user`` attribute needs write permission by mode, even on a descriptor open for writing
        (xattr(7)). Setuid bits must not stand beside the wrong owner, even for a moment.
        """
        mode &= 0o777
        return mode | 0o600 if has_attributes and not self.powerful else mode


def _may_all(probe: str, folder: int) -> bool:
    # Root in a container may have lost its capabilities.
    os.chmod(probe, 0, dir_fd=folder)
    return os.access(probe, os.R_OK | os.W_OK, dir_fd=folder, effective_ids=True)


class Metadata:
    """Sets metadata, or raises FailedError; counts what is left out for want of privilege.

    Where an inode has something already, ``uid``, ``gid`` and ``mode`` tell so, and -1 for what is
    not known. A call whose result is known is left out.

    Attributes:
        skipped: how many owners, xattrs, devices, ... were left out, by kind.
        records: what is refused is recorded, where it can be.
        has_names: owners of links were recorded in their folders.
    """

    def __init__(self, ownership: str) -> None:
        """``ownership``, one of ``OWNERSHIPS``, is for what only a privileged process can keep."""
        self.skipped: dict[str, int] = {}
        self.records = ownership == "record"
        self.has_names = False
        self._ignore_refused = ownership != "keep"

    def skip(self, kind: str) -> None:
        """Count one thing of ``kind`` that was left out."""
        self.skipped[kind] = self.skipped.get(kind, 0) + 1

    def refused(self, kind: str, error: OSError) -> bool:
        """Whether ``error`` is a want of privilege that the caller ignores; then it is counted."""
        if self._ignore_refused and error.errno in REFUSED:
            self.skip(kind)
            return True
        return False

    def set_all(self, fd: int, facts: Facts, uid: int, gid: int, mode: int) -> None:
        """Give the open file or folder ``fd`` all its metadata."""
        if (facts.uid != uid or facts.gid != gid) and self.set_owner(fd, facts):
            mode = -1
        attributes = facts.attributes
        for name, value in _in_order(attributes) if attributes else ():
            self.set_attribute(fd, name, value)
        operation = "chmod"
        try:
            if attributes or facts.mode != mode:
                os.chmod(fd, facts.mode)
            operation = "set its times"
            os.utime(fd, ns=(facts.atime, facts.mtime))
        except OSError as error:
            raise FailedError(operation, error) from error

    def set_all_at(
        self, dir_fd: int, name: bytes, facts: Facts, uid: int, gid: int, mode: int | None
    ) -> None:
        """Give ``name`` itself in an open folder all its metadata.

        ``mode`` is None for a symbolic link, which has none.
        """
        operation = "chown"
        try:
            if facts.uid != uid or facts.gid != gid:
                try:
                    os.chown(name, facts.uid, facts.gid, dir_fd=dir_fd, follow_symlinks=False)
                except OSError as error:
                    if not self.refused("owner", error):
                        raise
                    if self.records:
                        self._record_owner_at(dir_fd, name, facts)
            for attribute, value in _in_order(facts.attributes):
                try:
                    os.setxattr(path_at(dir_fd, name), attribute, value, follow_symlinks=False)
                except OSError as error:
                    if self.records and attribute == "user.rootlesscontainers":
                        self._record_name(dir_fd, name, facts, value)
                    elif not self._is_kept(path_at(dir_fd, name), attribute, value, error):
                        self._attribute_failed(attribute, error)
            operation = "chmod"
            if mode is not None and (facts.attributes or facts.mode != mode):
                _chmod_at(dir_fd, name, facts.mode)
            operation = "set its times"
            times = (facts.atime, facts.mtime)
            os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            raise FailedError(operation, error) from error

    def set_owner(self, fd: int, facts: Facts) -> bool:
        """Give the open file or folder ``fd`` its owner and group.

        Whether they had to be recorded, so that it has another mode now.
        """
        try:
            os.chown(fd, facts.uid, facts.gid)
        except OSError as error:
            if not self.refused("owner", error):
                raise FailedError("chown", error) from error
            if not self.records:
                return False
            with suppress(OSError):
                os.chown(fd, os.geteuid(), os.getegid())  # with another's it would not count
                os.chmod(fd, 0o700)  # a user attribute needs it (xattr(7))
            _set_owner(fd, _record_of(facts))
            return True
        return False

    def _record_owner_at(self, dir_fd: int, name: bytes, facts: Facts) -> None:
        """Record an owner that was refused, and counted for that."""
        record = _record_of(facts)
        if not _set_owner(path_at(dir_fd, name), record):
            self._record_name(dir_fd, name, facts, record)

    def _record_name(self, dir_fd: int, name: bytes, facts: Facts, record: bytes) -> None:
        """Record in the folder the owner of what can have no such attribute itself."""
        from reflayer.walk.recorded import key_of, names_record

        self.add_names(dir_fd, names_record({key_of(name, facts.mtime): record}))

    def add_names(self, folder: int, record: bytes) -> None:
        """Record owners of links in the open ``folder``, beside those that are recorded there."""
        from reflayer.walk.recorded import add_names

        try:
            add_names(folder, record)
            self.has_names = True
        except OSError:
            self.skip("owner")

    def set_attribute(self, fd: int, name: str, value: bytes) -> None:
        """Set an extended attribute of the open file or folder ``fd``.

        One that is not the tree's own may be of another system than this, and is left out then.
        """
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if not self._is_kept(fd, name, value, error):
                self._attribute_failed(name, error)

    def _is_kept(self, file: int | bytes, name: str, value: bytes, error: OSError) -> bool:
        """Whether the attribute, which failed with ``error``, is recorded; it is counted."""
        if not self.records or error.errno not in REFUSED or not is_of_tree(name):
            return False
        from reflayer.walk.recorded import KEPT

        if name.startswith("user.") or not _set(file, KEPT + name, value):
            return False
        self.skip("xattr")
        return True

    def _attribute_failed(self, name: str, error: OSError) -> None:
        if not is_of_tree(name) and error.errno not in OF_THE_DATA:
            self.skip("xattr")
        elif not self.refused("xattr", error):
            raise FailedError(f"setxattr {printable(name)}", error) from error


def _in_order(attributes: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """Those of ``user`` first: they need write permission by mode, which an ACL may take away."""
    return sorted(attributes.items(), reverse=True)


def _record_of(facts: Facts) -> bytes:
    """The owner in a record, empty where it is root's."""
    from reflayer.walk.recorded import owner_record

    uid, gid = os.geteuid(), os.getegid()  # they stand for root, as when it is packed
    return owner_record(0 if facts.uid == uid else facts.uid, 0 if facts.gid == gid else facts.gid)


def _set_owner(file: int | bytes, record: bytes) -> bool:
    from reflayer.walk.recorded import OWNER

    return not record or _set(file, OWNER, record)


def _set(file: int | bytes, name: str, value: bytes) -> bool:
    """Set a user attribute of what is open, or of what itself is at a path, if it can have one."""
    try:
        os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
    except OSError:
        return False
    return True


def _chmod_at(dir_fd: int, name: bytes, mode: int) -> None:
    # Before Linux 6.6 (fchmodat2) chmod(2) of a name followed a link that it had become; a
    # descriptor that only names the inode cannot.
    fd = os.open(name, _NAMED, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)
