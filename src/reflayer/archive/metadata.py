"""Owner, extended attributes, mode and times of what was made, in the order that keeps them all.

chown(2) takes setuid bits and file capabilities away, so it comes first; an access ACL brings its
own group bits, so the mode follows the attributes; the times come last.
"""

from __future__ import annotations

import errno
import os
import stat

from reflayer.archive.folder import ACCESS_ACL, DEFAULT_ACL, attribute_names
from reflayer.archive.tar_entry import SYMLINK
from reflayer.errors import ArchiveError, printable
from reflayer.linux.chmod import chmod_at
from reflayer.linux.xattrs import is_of_tree, setxattr_at
from reflayer.walk import metadata
from reflayer.walk.facts import FailedError
from reflayer.walk.metadata import REFUSED, NewInode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.archive.folder import Folder
    from reflayer.archive.tar_entry import Entry

_IMPOSSIBLE = REFUSED | {errno.ERANGE, errno.E2BIG}  # setxattr(2): here, or anywhere
_SPECIAL_BITS = 0o7000


class Metadata(metadata.Metadata):
    """Sets what entries say; calls whose result is known beforehand are left out.

    Attributes:
        powerful: permission bits do not bind this process.
        withheld: permission bits that a file is made without.
    """

    def __init__(self, root: int, ignore_refused: bool) -> None:
        """Learn what that which is made in ``root`` has from the moment it is made.

        Args:
            root: descriptor of the layer's root, which has no default ACL for now.
            ignore_refused: what ``ownership="ignore"`` means.
        """
        super().__init__(ignore_refused)
        birth = NewInode(root)
        self.powerful = birth.powerful
        self._uid = birth.uid
        # Where files do not have our group from birth, each gets its group set.
        self._gid = birth.gid if birth.gid == os.getegid() else -1
        self.withheld = birth.umask
        self._to_chmod = birth.umask | _SPECIAL_BITS

    def of_tree(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        """Those of an entry that are not of the host or the file system where it was packed."""
        found = {name: value for name, value in attributes.items() if is_of_tree(name)}
        for _ in range(len(attributes) - len(found)):
            self.skip("xattr")
        return found

    def creation_mode(self, entry: Entry) -> int:
        """The mode to make a file with: its own, or more where attributes need it (xattr(7))."""
        mode = entry.mode & 0o777
        return mode | 0o600 if entry.attributes and not self.powerful else mode

    def is_owned(self, folder: Folder, entry: Entry) -> bool:
        """Whether what is made in ``folder`` has the owner and group of ``entry``."""
        return entry.uid == self._uid and entry.gid == folder.gid == self._gid

    def finish_file(self, fd: int, folder: Folder, entry: Entry) -> None:
        """Set all of a new regular file in ``folder``."""
        if not self.is_owned(folder, entry):
            self._chown(fd, entry)
        if entry.attributes:
            for name, value in entry.attributes.items():
                self._set_attribute(fd, name, value)
        operation = "chmod"
        try:
            if entry.attributes or entry.mode & self._to_chmod:
                os.chmod(fd, entry.mode)
            operation = "utimensat"
            os.utime(fd, ns=(entry.atime, entry.mtime))
        except OSError as error:
            raise FailedError(operation, error) from error

    def finish_at(
        self, name: bytes, folder: Folder, entry: Entry, there: os.stat_result | None = None
    ) -> None:
        """Set all of ``name`` in ``folder``, no regular file or folder, that was just made.

        Or set all of an inode that got it as a further name, and that was ``there`` like that.

        Raises:
            ArchiveError: an attribute cannot be set.
            FailedError: another call failed.
        """
        if there is None:
            is_owned = self.is_owned(folder, entry)
            is_symlink = entry.type == SYMLINK
            to_chmod = not is_symlink and (entry.attributes or entry.mode & self._to_chmod)
        else:
            is_owned = entry.uid == there.st_uid and entry.gid == there.st_gid
            is_symlink = stat.S_ISLNK(there.st_mode)
            has_mode = is_symlink or entry.mode == stat.S_IMODE(there.st_mode)
            if is_owned and has_mode and entry.mtime == there.st_mtime_ns and not entry.attributes:
                return  # as in nearly all archives
            to_chmod = not is_symlink
        if not is_owned:
            try:
                os.chown(name, entry.uid, entry.gid, dir_fd=folder.fd, follow_symlinks=False)
            except OSError as error:
                if not self.refused("owner", error):
                    raise FailedError("chown", error) from error
        for attribute, value in entry.attributes.items():
            try:
                setxattr_at(folder.fd, name, attribute, value)
            except OSError as error:
                self._not_set(attribute, error)
        operation = "chmod"
        try:
            if to_chmod:
                chmod_at(folder.fd, name, entry.mode)
            operation = "utimensat"
            times = (entry.atime, entry.mtime)
            os.utime(name, ns=times, dir_fd=folder.fd, follow_symlinks=False)
        except OSError as error:
            raise FailedError(operation, error) from error

    def enter_folder(self, folder: Folder, entry: Entry) -> None:
        """Give ``folder`` its entry's owner and attributes, and note the rest for its end."""
        if entry.uid != folder.uid or entry.gid != folder.gid:
            self._chown(folder.fd, entry)
            status = os.fstat(folder.fd)
            folder.uid, folder.gid = status.st_uid, status.st_gid
        folder.acls.clear()
        for name, value in entry.attributes.items():
            if name in (ACCESS_ACL, DEFAULT_ACL):
                folder.acls[name] = value
            else:
                self._set_attribute(folder.fd, name, value)
        folder.mode = entry.mode
        folder.atime, folder.mtime = entry.atime, entry.mtime

    def finish_folder(self, folder: Folder) -> None:
        """Give ``folder`` the rest of its metadata: nothing will be made in it for now."""
        for attribute, value in folder.acls.items():
            self._set_attribute(folder.fd, attribute, value)
        operation = "chmod"
        try:
            if folder.acls or folder.mode != folder.mode_now:
                os.chmod(folder.fd, folder.mode)
            operation = "utimensat"
            os.utime(folder.fd, ns=(folder.atime, folder.mtime))
        except OSError as error:
            raise FailedError(operation, error) from error

    def clear_attributes(self, folder: Folder, kept: Mapping[str, bytes]) -> None:
        """Take away the attributes of a folder of lower layers that its entry lacks.

        As umoci does, and as an overlay of the layers would show it.
        """
        for name in attribute_names(folder.fd):
            if not is_of_tree(name) or name in kept:
                continue
            try:
                os.removexattr(folder.fd, name)
            except OSError as error:
                if not self.refused("xattr", error):
                    raise FailedError(f"removexattr {name}", error) from error
            if name == ACCESS_ACL:
                folder.mode_now = None  # its mask is the group's permissions now

    def _chown(self, fd: int, entry: Entry) -> None:
        try:
            os.chown(fd, entry.uid, entry.gid)
        except OSError as error:
            if not self.refused("owner", error):
                raise FailedError("chown", error) from error

    def _set_attribute(self, fd: int, name: str, value: bytes) -> None:
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            self._not_set(name, error)

    def _not_set(self, name: str, error: OSError) -> None:
        if self.refused("xattr", error):
            return
        if error.errno in _IMPOSSIBLE:
            reason = f"its attribute {printable(name)} cannot be set here: {error.strerror}"
            raise ArchiveError(reason) from error
        raise FailedError(f"setxattr {printable(name)}", error) from error
