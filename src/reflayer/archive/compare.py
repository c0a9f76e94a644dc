"""A changed tree side by side with the tree before: the names in two folders, and what is the same.

The tree before may be a stack: then a folder before is a union, and of an entry before it is known
in which layer it is, since a difference has what a tree has in a form of its own.

An entry is the same as Docker's diff has it, and closer: attributes count, and so does the content
where type, mode, owner, size and time are the same.
"""

from __future__ import annotations

import errno
import os
import stat

from reflayer.linux.fiemap import share_all_data
from reflayer.walk.facts import list_attributes, read_attributes, read_attributes_at
from reflayer.walk.folders import OPEN_FILE, Folder, names_in, open_noatime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from reflayer.walk.stack import Part, Union

_BLOCK = 1 << 20
_NO_MAP = frozenset({errno.EOPNOTSUPP, errno.ENOTTY})


class FolderPair(Folder):
    """A folder of the changed tree, and ``old``, its counterpart in the tree before."""

    __slots__ = (
        "before", "fresh", "gone", "hides_all", "is_added", "is_emptied", "is_implied", "is_packed",
        "is_settled", "is_untouched", "old", "owners", "todo", "told",
    )  # fmt: skip

    def __init__(
        self,
        parent: FolderPair | None,
        name: bytes,
        fd: int,
        old: Union | None,
        status: os.stat_result,
        before: os.stat_result | None,
    ) -> None:
        super().__init__(parent, name, fd, -1, status)
        self.old = old
        self.before = before  # its status in the tree before, None where that has no such folder
        self.hides_all = False  # of a difference: nothing below is to be seen here
        self.is_added = False  # nothing at all had the name in the tree before
        self.is_settled = False  # nothing was moved here, or on the way here, since the cloning
        self.is_untouched = False  # neither its metadata nor the names in it are other than before
        self.is_emptied = False  # all that was in it before is gone
        self.is_implied = False  # a layer has no entry for what is in it
        self.is_packed = False  # an archive has it already
        self.fresh: set[bytes] = set()  # names that only the changed tree has
        self.gone: set[bytes] = set()  # names that only the tree before has
        self.owners: dict[int, bytes] | None = None  # of links, as far as they are recorded
        self.todo: list[bytes] = []  # names still to be compared, the next one last
        self.told: str | None = None  # the kind that was told, "" for none; None: not looked at

    def read(self, *, has_same_names: bool) -> None:
        """Note the names in both folders; those in the one before only if they may be others."""
        names = names_in(self.fd)
        if self.old is None:
            self.fresh = names
        elif not has_same_names or len(self.old.parts) > 1:
            earlier = names_in(self.old.parts[0].fd) if self.old.is_plain else {*self.old.names()}
            self.fresh = names - earlier
            self.gone = earlier - names
            self.is_emptied = bool(earlier) and len(self.gone) == len(earlier)
        self.todo = sorted(names | self.gone if self.gone else names, reverse=True)

    def close(self) -> None:
        """Close what is open."""
        super().close()
        if self.old is not None:
            self.old.close()

    def shelve(self) -> None:
        """Close all descriptors for now; once is enough."""
        if self.old is not None:
            self.old.shelve()
        super().shelve()

    def reopen(self, child: Self, root: Self) -> None:
        """Open a shelved folder again, from ``child``, an open folder directly in it."""
        super().reopen(child, root)
        if self.old is not None:
            assert root.old is not None
            self.old.reopen(self.path(), child.old, root.old)


def is_same_status(now: os.stat_result, before: os.stat_result) -> bool:
    """Whether type, mode, owner, time and, but for folders, size and device are the same."""
    return (
        now.st_mtime_ns == before.st_mtime_ns
        and now.st_mode == before.st_mode
        and (stat.S_ISDIR(now.st_mode) or now.st_size == before.st_size)
        and now.st_uid == before.st_uid
        and now.st_gid == before.st_gid
        and now.st_rdev == before.st_rdev
    )


def is_same_inode(now: os.stat_result, before: os.stat_result) -> bool:
    """Whether both are one inode in one state, if not of one subvolume: as in a btrfs snapshot.

    Whatever changes an inode changes its ctime, and nobody can set that (inode(7)).
    """
    return now.st_ino == before.st_ino and now.st_ctime_ns == before.st_ctime_ns


def attributes_in_tree(file: int, part: Part) -> dict[str, bytes]:
    """The extended attributes of an open file or folder of a layer."""
    return part.attributes(read_attributes(file, list_attributes(file)))


def is_same_entry(
    name: bytes, new: int, old: Part, now: os.stat_result, before: os.stat_result
) -> bool:
    """Whether ``name`` of the same status in two open folders, and no folder, is the same.

    Content is compared where not both lie in the same place.
    """
    if stat.S_ISREG(now.st_mode) and now.st_size:
        return _is_same_file(name, new, old, now, before)
    if stat.S_ISLNK(now.st_mode) and os.readlink(name, dir_fd=new) != os.readlink(
        name, dir_fd=old.fd
    ):
        return False
    earlier = read_attributes_at(old.fd, name)
    return read_attributes_at(new, name) == old.attributes(earlier)


def _is_same_file(
    name: bytes, new: int, old: Part, now: os.stat_result, before: os.stat_result
) -> bool:
    one = open_noatime(name, new, OPEN_FILE)
    try:
        other = open_noatime(name, old.fd, OPEN_FILE)
        try:
            earlier = attributes_in_tree(other, old)
            if read_attributes(one, list_attributes(one)) != earlier:
                return False
            # On btrfs each subvolume has a device number, and places are told for all together.
            if now.st_dev == before.st_dev and _lie_together(one, other):
                return True
            return _has_same_bytes(one, other)
        finally:
            os.close(other)
    finally:
        os.close(one)


def _lie_together(one: int, other: int) -> bool:
    try:
        return share_all_data(one, other)
    except OSError as error:
        if error.errno in _NO_MAP:
            return False
        raise


def _has_same_bytes(one: int, other: int) -> bool:
    offset = 0
    while True:
        block = os.pread(one, _BLOCK, offset)
        if block != os.pread(other, _BLOCK, offset):
            return False
        if not block:
            return True
        offset += len(block)
