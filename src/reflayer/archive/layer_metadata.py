"""What entries say of owners, modes, times and attributes; a folder gets the last of it when shut.

A folder at work lacks what its content would inherit (a default ACL) and lets us in. It gets its
metadata, times included, when it is shut: so a folder that has no entry in the layer comes out as
it was, as with umoci, and nothing need be remembered of folders that are done.
"""

from __future__ import annotations

import errno
import os
import stat

from reflayer.archive.tar_header import BLOCK_DEVICE, CHAR, FILE, HARD_LINK, SYMLINK
from reflayer.errors import ArchiveError, printable
from reflayer.linux.xattrs import ACCESS_ACL, DEFAULT_ACL, is_of_tree
from reflayer.walk.facts import Facts, FailedError, list_attributes
from reflayer.walk.metadata import REFUSED, Metadata, NewInode
from reflayer.walk.recorded import (
    NAMES,
    OWNER,
    STATUS,
    can_record,
    owner_record,
    readable,
    status_record,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.archive.tar_header import Entry

    Key = int | tuple[int, int]  # inode number, with the device where that is not the root's

_DEVICES = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK}
_WITH_MODE = frozenset({FILE, HARD_LINK})
_IMPOSSIBLE = REFUSED | {errno.ERANGE, errno.E2BIG}  # setxattr(2): here, or anywhere


class LayerFolder:
    """An open folder, and what it will have when it is shut."""

    __slots__ = (
        "atime", "attributes", "batch", "fd", "gid", "key", "made", "mode", "mode_now", "mtime",
        "names", "path", "uid",
    )  # fmt: skip

    def __init__(self, fd: int, status: os.stat_result, key: Key, path: bytes) -> None:
        self.fd = fd  # -1 once shut
        self.key = key  # what tells it from every other folder
        self.path = path  # one from the root, for messages
        self.names: set[bytes] = set()  # all paths by which it is known
        self.uid = status.st_uid  # as it is now; files made in it may inherit the group
        self.gid = status.st_gid
        self.mode = self.mode_now = stat.S_IMODE(status.st_mode)  # now: -1 where not known
        self.atime = status.st_atime_ns
        self.mtime = status.st_mtime_ns
        self.attributes: Mapping[str, bytes] = {}  # ACLs that it will have, beyond those it has
        self.batch = 0  # number of the last batch of files that are made in it
        # Names in it that this layer's entries made; None where all were, the folder too.
        self.made: set[bytes] | None = None

    def let_in(self) -> None:
        """Give ourselves the owner's permissions for the time being."""
        if self.mode & 0o700 != 0o700:
            self.mode_now = self.mode | 0o700
            os.chmod(self.fd, self.mode_now)

    def withhold_default_acl(self) -> None:
        """Take away the ACL that files made in it would inherit (acl(5)) for the time being."""
        if DEFAULT_ACL in list_attributes(self.fd):
            self.attributes = {DEFAULT_ACL: os.getxattr(self.fd, DEFAULT_ACL)}
            os.removexattr(self.fd, DEFAULT_ACL)

    def shut(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class LayerMetadata(Metadata):
    """Sets what entries say; calls whose result is known beforehand are left out.

    An attribute that cannot be set is the archive's fault where this system, or any, refuses it.
    """

    def __init__(self, root: int, ownership: str) -> None:
        """Learn what an inode has that is made in the open ``root``, which has no default ACL now.

        ``ownership`` is as for ``apply_layer``.
        """
        super().__init__(ownership)
        self._stands_in = self.records and can_record(root)
        self._new = new = NewInode(root)
        self.powerful = new.powerful
        # An ordinary user stands for root, and everybody else's owners are recorded.
        is_bound = self.records and not new.powerful
        self._user = (os.geteuid(), os.getegid()) if is_bound else None
        self.withheld = new.umask  # the permission bits that a file is made without
        self._given = 0o777 & ~new.umask
        # Where files do not have our group from birth, each gets its group set.
        self._gid = new.gid if new.gid == os.getegid() else -1

    def of_tree(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        """Those of an entry that are not of the host or the file system where it was packed."""
        found = {name: value for name, value in attributes.items() if is_of_tree(name)}
        for _ in range(len(attributes) - len(found)):
            self.skip("xattr")
        return found

    def make_file_of(self, _: Entry) -> bool:
        """Whether the device is to be a file, which its entry then says."""
        return False

    def record(self, entry: Entry) -> None:
        """Let ``entry`` be as this user can make it, with what he cannot in its attributes."""
        if self._user is None or entry.type in _DEVICES:
            return
        ids, attributes = (entry.uid, entry.gid), {}
        entry.uid, entry.gid = self._user
        if any(ids):
            attributes[OWNER] = owner_record(*ids)
        mode = entry.mode
        if entry.type in _WITH_MODE and readable(mode) != mode:
            entry.mode = readable(mode)
            if entry.type == FILE:  # a link's inode has it
                attributes[STATUS] = status_record(*ids, stat.S_IFREG | mode)
        if attributes:
            entry.attributes = {**entry.attributes, **attributes}

    def is_recorded_after(self, entry: Entry) -> bool:
        """Whether all attributes of the file are a record that it can get when it is complete."""
        is_record = self._user is not None and entry.attributes.keys() == {OWNER}
        return is_record and bool(entry.mode & 0o200)  # a user attribute needs it (xattr(7))

    def stand_in(self, entry: Entry) -> bool:
        """Whether the device, which may not be made, is to be a file that stands in for it.

        Its entry then says so.
        """
        if not self._stands_in:
            return False
        kind = _DEVICES[entry.type]
        record = status_record(entry.uid, entry.gid, kind | entry.mode, os.makedev(*entry.device))
        entry.type = FILE
        self.record(entry)
        entry.attributes = {**entry.attributes, STATUS: record}
        return True

    def creation_mode(self, entry: Entry) -> int:
        return self._new.creation_mode(entry.mode, bool(entry.attributes))

    def is_owned(self, folder: LayerFolder, entry: Entry) -> bool:
        """Whether what is made in ``folder`` has the owner and group of ``entry``."""
        return entry.uid == self._new.uid and entry.gid == folder.gid == self._gid

    def finish_file(self, fd: int, folder: LayerFolder, entry: Entry) -> None:
        """Set all of a new regular file in ``folder``."""
        gid = folder.gid if folder.gid == self._gid else -1
        self.set_all(fd, entry, self._new.uid, gid, entry.mode & self._given)

    def finish_at(self, name: bytes, folder: LayerFolder, entry: Entry) -> None:
        """Set all of ``name`` in ``folder``, no regular file or folder, that was just made."""
        gid = folder.gid if folder.gid == self._gid else -1
        mode = None if entry.type == SYMLINK else entry.mode & self._given
        self.set_all_at(folder.fd, name, entry, self._new.uid, gid, mode)

    def finish_link(
        self, name: bytes, folder: LayerFolder, entry: Entry, status: os.stat_result
    ) -> None:
        """Set all of an inode that got ``name`` as a further one; ``status`` was its own before."""
        mode = None if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
        is_owned = entry.uid == status.st_uid and entry.gid == status.st_gid
        has_mode = mode is None or mode == entry.mode
        if is_owned and has_mode and entry.mtime == status.st_mtime_ns and not entry.attributes:
            return  # as in nearly all archives
        known = None if mode is None else -1  # chown(2) may have taken some of its bits
        self.set_all_at(folder.fd, name, entry, status.st_uid, status.st_gid, known)

    def enter_folder(self, folder: LayerFolder, entry: Entry | Facts) -> None:
        """Give ``folder`` its entry's owner and attributes, and note the rest for its end."""
        if entry.uid != folder.uid or entry.gid != folder.gid:
            self.set_owner(folder.fd, entry)
            status = os.fstat(folder.fd)
            folder.uid, folder.gid = status.st_uid, status.st_gid
            folder.mode_now = stat.S_IMODE(status.st_mode)  # another where a record had to be made
        acls = {}
        for name, value in entry.attributes.items():
            if name in (ACCESS_ACL, DEFAULT_ACL):
                acls[name] = value
            elif name == NAMES and self.records:
                self.add_names(folder.fd, value)
            else:
                self.set_attribute(folder.fd, name, value)
        folder.attributes = acls
        folder.mode = entry.mode
        folder.atime, folder.mtime = entry.atime, entry.mtime

    def finish_folder(self, folder: LayerFolder) -> None:
        """Give ``folder`` the rest of its metadata: nothing will be made in it for now."""
        self.set_all(folder.fd, folder, folder.uid, folder.gid, folder.mode_now)

    def clear_attributes(self, folder: LayerFolder, kept: Mapping[str, bytes]) -> None:
        """Take away the attributes of a folder of lower layers that its entry lacks.

        As umoci does, and as an overlay of the layers would show it.
        """
        for name in list_attributes(folder.fd):
            if not is_of_tree(name) or name in kept or (name == NAMES and self.records):
                continue
            try:
                os.removexattr(folder.fd, name)
            except OSError as error:
                if not self.refused("xattr", error):
                    raise FailedError(f"removexattr {name}", error) from error
            if name == ACCESS_ACL:
                folder.mode_now = -1  # its mask is the group's permissions now

    def _attribute_failed(self, name: str, error: OSError) -> None:
        if self.refused("xattr", error):
            return
        if error.errno in _IMPOSSIBLE:
            reason = f"its attribute {printable(name)} cannot be set here: {error.strerror}"
            if error.errno in REFUSED:
                reason += ": with the ownership ignore it is left out"
            raise ArchiveError(reason) from error
        raise FailedError(f"setxattr {printable(name)}", error) from error
