"""One entry that is no folder: a regular file, a symbolic link, a FIFO, socket or device."""

from __future__ import annotations

import os
import stat

from reflayer.copy.folder import CHANGED
from reflayer.errors import CopyError
from reflayer.walk.facts import (
    Facts,
    FailedError,
    SizeChangedError,
    list_attributes,
    read_attributes,
    read_attributes_at,
)
from reflayer.walk.folders import NEW_FILE, OPEN_FILE, OPEN_FOLDER, open_noatime
from reflayer.walk.mounts import status_at_mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.folder import Folder, Job
    from reflayer.copy.links import Links
    from reflayer.copy.method import Method
    from reflayer.walk.metadata import Metadata

_SPECIAL = {
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


class Entries:
    """Copies entries that are no folders and counts them.

    Attributes:
        made: names made, by type.
    """

    def __init__(self, job: Job, method: Method, metadata: Metadata, links: Links) -> None:
        self.made = {"file": 0, "directory": 0}
        self._job = job
        self._method = method
        self._metadata = metadata
        self._links = links

    def count_made(self, files: int, again: int, links: int, folders: int) -> None:
        """Count names that the part in C has made."""
        made = self.made
        made["file"] += files
        made["directory"] += folders
        for kind, count in (("hardlink", again), ("symlink", links)):
            if count:
                made[kind] = made.get(kind, 0) + count

    def count(self) -> int:
        """How many names have been made in all."""
        return sum(self.made.values())

    def copy_file(self, folder: Folder, name: bytes) -> bool:
        """Copy the regular file ``name`` of ``folder``: the way that nearly every entry takes.

        False where it stands for a device, and that is left out.
        """
        operation = "open"
        source = self._job.source
        src = dst = -1
        try:
            src = open_noatime(name, folder.src, OPEN_FILE)
            status = os.fstat(src)
            if not stat.S_ISREG(status.st_mode):
                raise self._job.failure(folder, name, "open", CHANGED)
            attributes = list_attributes(src)
            if attributes and not status.st_size and source.is_device(folder.layer, attributes):
                return self.copy_special(folder, name)
            new = self._job.new
            mode = new.creation_mode(status.st_mode, bool(attributes))
            operation = "create"
            if status.st_nlink == 1:
                dst = os.open(name, NEW_FILE, mode, dir_fd=folder.dst)
            else:
                waiting = _waiting_name(status)
                try:
                    dst = os.open(waiting, NEW_FILE, mode, dir_fd=self._links.folder())
                except FileExistsError:
                    self._link(folder, name, waiting, status.st_nlink)
                    return True
                self._links.link(waiting, folder.dst, name, status.st_nlink)
            operation = "copy its content"
            self._method.copy(src, dst, status.st_size, status.st_dev)
            operation = "set its times"
            mode_now = mode & ~new.umask
            self.finish(
                folder.layer, src, dst, status, attributes, status.st_mode & 0o7777, mode_now
            )
            self.made["file"] += 1
            return True
        except (OSError, FailedError) as error:
            raise self._job.failure(folder, name, operation, error) from error
        except SizeChangedError as error:
            raise CopyError(self._job.path(folder.path(name)), operation, str(error)) from error
        finally:
            if dst >= 0:
                os.close(dst)
            if src >= 0:
                os.close(src)

    def finish(
        self,
        layer: int,
        src: int,
        dst: int,
        status: os.stat_result,
        attributes: list[str],
        mode: int,
        mode_now: int,
    ) -> None:
        """Give ``dst``, a new file or folder, all metadata of ``src``, but ``mode`` for its own.

        ``attributes`` are the names of those of ``src``, which is in ``layer`` of the source;
        ``dst`` was made with ``mode_now``.
        """
        new, source = self._job.new, self._job.source
        attributes, status = source.tree_names(layer, attributes), source.owned(status)
        if attributes or mode != mode_now or status.st_uid != new.uid or status.st_gid != new.gid:
            found = read_attributes(src, attributes, self._metadata.skip)
            facts = Facts(status, source.tree_attributes(layer, found))
            facts.mode = mode
            self._metadata.set_all(dst, facts, new.uid, new.gid, mode_now)
        else:  # as nearly always
            os.utime(dst, ns=(status.st_atime_ns, status.st_mtime_ns))

    def copy_special(self, folder: Folder, name: bytes) -> bool:
        """Copy ``name`` of ``folder``, a symbolic link, FIFO, socket or device, as what it is.

        False where it is left out.
        """
        operation = "stat"
        source = self._job.source
        try:
            status = source.status(folder.layer, folder.src, name)
            operation = "create"
            if status.st_nlink == 1:
                kind = self._make(folder, name, status, folder.dst, name)
            else:
                waiting = _waiting_name(status)
                try:
                    kind = self._make(folder, name, status, self._links.folder(), waiting)
                except FileExistsError:
                    self._link(folder, name, waiting, status.st_nlink)
                    return True
                if kind:
                    self._links.link(waiting, folder.dst, name, status.st_nlink)
            if kind:
                found = read_attributes_at(folder.src, name, self._metadata.skip)
                found = source.tree_attributes(folder.layer, found)
                facts, new = Facts(status, found), self._job.new
                mode = None if kind == "symlink" else facts.mode & 0o777 & ~new.umask
                if kind == "file":  # which stands in for a device
                    mode = -1
                self._metadata.set_all_at(folder.dst, name, facts, new.uid, new.gid, mode)
                self.made[kind] = self.made.get(kind, 0) + 1
            return bool(kind)
        except (OSError, FailedError) as error:
            raise self._job.failure(folder, name, operation, error) from error

    def copy_mounted(self, folder: Folder, name: bytes, is_folder: bool) -> bool:
        """Copy ``name`` of ``folder`` if something is mounted on it; else say False.

        What the folder's listing tells of it is the type of the name below the mount. Where mounts
        are not crossed an empty file or folder stands for it, and it is not opened. A folder that
        is crossed into is as any other.
        """
        operation = "stat"
        dst = -1
        try:
            crosses = self._job.cross_mounts
            if (is_folder and crosses) or not self._job.is_mount_point(folder, name):
                return False
            status = status_at_mount(folder.src, name)
            if not crosses:
                operation = "create"
                new = self._job.new
                if is_folder:
                    os.mkdir(name, 0o700, dir_fd=folder.dst)
                    dst = os.open(name, OPEN_FOLDER, dir_fd=folder.dst)
                else:
                    dst = os.open(name, NEW_FILE, 0o600, dir_fd=folder.dst)
                facts = Facts(self._job.source.owned(status), {})
                self._metadata.set_all(dst, facts, new.uid, new.gid, -1)
                self._metadata.skip("mount")
                self.made["directory" if is_folder else "file"] += 1
        except (OSError, FailedError) as error:
            raise self._job.failure(folder, name, operation, error) from error
        finally:
            if dst >= 0:
                os.close(dst)
        if crosses:
            copy = self.copy_file if stat.S_ISREG(status.st_mode) else self.copy_special
            copy(folder, name)
        return True

    def _make(
        self, folder: Folder, name: bytes, status: os.stat_result, dst: int, dst_name: bytes
    ) -> str:
        """Make the link or special file ``dst_name``; return its type, "" where it is left out."""
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=folder.src), dst_name, dir_fd=dst)
            return "symlink"
        kind = _SPECIAL.get(stat.S_IFMT(mode))
        if kind is None:
            raise self._job.failure(folder, name, "stat", CHANGED)
        try:
            os.mknod(dst_name, mode, status.st_rdev, dir_fd=dst)
        except PermissionError as error:
            if kind not in ("char", "block"):
                raise
            if not self._metadata.refused("device", error):
                raise FailedError("mknod", error) from error
            is_there = self._metadata.records and _make_stand_in(dst_name, status, dst)
            return "file" if is_there else ""
        return kind

    def _link(self, folder: Folder, name: bytes, waiting: bytes, names: int) -> None:
        self._links.link_again(waiting, folder.dst, name, names)
        self.made["hardlink"] = self.made.get("hardlink", 0) + 1


def _make_stand_in(name: bytes, status: os.stat_result, folder: int) -> bool:
    """Make an empty file in the place of a device, if it can have an attribute that says so."""
    from reflayer.walk.recorded import STATUS, can_record, status_record

    if not can_record(folder):
        return False
    fd = os.open(name, NEW_FILE, 0o600, dir_fd=folder)
    try:
        record = status_record(status.st_uid, status.st_gid, status.st_mode, status.st_rdev)
        os.setxattr(fd, STATUS, record)
    finally:
        os.close(fd)
    return True


def _waiting_name(status: os.stat_result) -> bytes:
    """The name under which the copy of an inode with several names waits: device and inode."""
    return b"%x.%x" % (status.st_dev, status.st_ino)
