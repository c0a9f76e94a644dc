"""One folder of the layer while it is being worked in.

A folder at work lacks what its content would inherit (a default ACL) and lets us in. It gets its
metadata, times included, when it is shut: so a folder that has no entry in the layer comes out as
it was, as with umoci, and nothing need be remembered of folders that are done.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    Key = int | tuple[int, int]  # inode number, with the device where that is not the root's

ACCESS_ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"


class Folder:
    """An open folder, and what it will have when it is shut.

    Attributes:
        fd: its descriptor, -1 once shut.
        key: what tells it from every other folder.
        path: one of its paths from the root, for messages.
        names: all paths by which it is known.
        uid: its owner.
        gid: its group, which files made in it may inherit.
        mode: permission bits that it will have.
        mode_now: permission bits that it has; None where that is not known.
        atime: access time that it will have, in nanoseconds.
        mtime: modification time that it will have, in nanoseconds.
        acls: POSIX ACLs that it will have, by attribute, beyond those that it has.
        batch: number of the last batch of files that are made in it.
        made: names in it that this layer's entries made; None where all were, the folder too.
    """

    __slots__ = (
        "acls", "atime", "batch", "fd", "gid", "key", "made", "mode", "mode_now", "mtime", "names",
        "path", "uid",
    )  # fmt: skip

    def __init__(self, fd: int, status: os.stat_result, key: Key, path: bytes) -> None:
        """Take over ``fd``."""
        self.fd = fd
        self.key = key
        self.path = path
        self.names: set[bytes] = set()
        self.uid = status.st_uid
        self.gid = status.st_gid
        self.mode = stat.S_IMODE(status.st_mode)
        self.mode_now: int | None = self.mode
        self.atime = status.st_atime_ns
        self.mtime = status.st_mtime_ns
        self.acls: dict[str, bytes] = {}
        self.batch = 0
        self.made: set[bytes] | None = None

    def let_in(self) -> None:
        """Give ourselves the owner's permissions for the time being."""
        if self.mode & 0o700 != 0o700:
            self.mode_now = self.mode | 0o700
            os.chmod(self.fd, self.mode_now)

    def withhold_default_acl(self) -> None:
        """Take away the ACL that files made in it would inherit (acl(5)) for the time being."""
        if DEFAULT_ACL in attribute_names(self.fd):
            self.acls[DEFAULT_ACL] = os.getxattr(self.fd, DEFAULT_ACL)
            os.removexattr(self.fd, DEFAULT_ACL)

    def shut(self) -> None:
        """Shut it as it is."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def attribute_names(fd: int) -> list[str]:
    """The names of an open file's extended attributes; none where the file system has none."""
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise
