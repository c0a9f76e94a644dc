"""One entry that is no folder: a regular file, a symbolic link, a FIFO, socket or device."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.copy.content import Content, SizeChangedError
from reflayer.copy.folder import OPEN_FILE, OPEN_FOLDER, Folder, open_source
from reflayer.copy.metadata import FailedError, Metadata, list_attributes
from reflayer.copy.mounts import is_mount_point, status_at_mount
from reflayer.errors import CopyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.job import Job
    from reflayer.copy.links import Links

_DST_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

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

    def __init__(self, job: Job, content: Content, metadata: Metadata, links: Links) -> None:
        self.made = {"file": 0, "directory": 0}
        self._job = job
        self._content = content
        self._metadata = metadata
        self._links = links

    def count_made(self, files: int, links: int, folders: int) -> None:
        """Count names that the part in C has made."""
        made = self.made
        made["file"] += files
        made["directory"] += folders
        if links:
            made["symlink"] = made.get("symlink", 0) + links

    def count(self) -> int:
        """How many names have been made in all."""
        return sum(self.made.values())

    def copy_file(self, folder: Folder, name: bytes) -> None:
        """Copy the regular file ``name`` of ``folder``: the way that nearly every entry takes.

        Raises:
            CopyError: a call failed, or the source is no longer what it was.
        """
        operation = "open"
        src = dst = -1
        try:
            src = open_source(name, folder.src, OPEN_FILE)
            status = os.fstat(src)
            if not stat.S_ISREG(status.st_mode):
                raise failure(self._job, folder, name, "open", CHANGED)
            attributes = list_attributes(src)
            mode = self._metadata.creation_mode(status.st_mode, attributes)
            operation = "create"
            if status.st_nlink == 1:
                dst = os.open(name, _DST_FILE, mode, dir_fd=folder.dst)
            else:
                waiting = _waiting_name(status)
                try:
                    dst = os.open(waiting, _DST_FILE, mode, dir_fd=self._links.folder())
                except FileExistsError:
                    self._link(folder, name, waiting, status.st_nlink)
                    return
                self._links.link(waiting, folder.dst, name, status.st_nlink)
            operation = "copy its content"
            self._content.copy(src, dst, status.st_size, status.st_dev)
            operation = "set its times"
            self._metadata.finish_file(src, dst, status, attributes)
            self.made["file"] += 1
        except OSError as error:
            raise failure(self._job, folder, name, operation, error) from error
        except FailedError as failed:
            raise failure(self._job, folder, name, failed.operation, failed.cause) from failed
        except SizeChangedError as error:
            raise CopyError(folder.path(self._job, name), operation, str(error)) from error
        finally:
            if dst >= 0:
                os.close(dst)
            if src >= 0:
                os.close(src)

    def copy_special(self, folder: Folder, name: bytes) -> None:
        """Copy ``name`` of ``folder``, a symbolic link, FIFO, socket or device, as the thing it is.

        Raises:
            CopyError: a call failed, or the source is no longer what it was.
        """
        operation = "stat"
        try:
            status = os.stat(name, dir_fd=folder.src, follow_symlinks=False)
            operation = "create"
            if status.st_nlink == 1:
                kind = self._make(folder, name, status, folder.dst, name)
            else:
                waiting = _waiting_name(status)
                try:
                    kind = self._make(folder, name, status, self._links.folder(), waiting)
                except FileExistsError:
                    self._link(folder, name, waiting, status.st_nlink)
                    return
                if kind:
                    self._links.link(waiting, folder.dst, name, status.st_nlink)
            if kind:
                operation = "set its times"
                self._metadata.finish_at(name, folder.src, folder.dst, status)
                self.made[kind] = self.made.get(kind, 0) + 1
        except OSError as error:
            raise failure(self._job, folder, name, operation, error) from error
        except FailedError as failed:
            raise failure(self._job, folder, name, failed.operation, failed.cause) from failed

    def copy_mounted(self, folder: Folder, name: bytes, is_folder: bool) -> bool:
        """Copy ``name`` of ``folder`` if something is mounted on it; else say False.

        What the folder's listing tells of it is the type of the name below the mount. Where mounts
        are not crossed an empty file or folder stands for it, and it is not opened. A folder that
        is crossed into is as any other.

        Raises:
            CopyError: a call failed.
        """
        operation = "stat"
        dst = -1
        try:
            if (is_folder and self._job.cross_mounts) or not is_mount_point(
                self._job, folder, name
            ):
                return False
            status = status_at_mount(folder.src, name)
            if not self._job.cross_mounts:
                operation = "create"
                if is_folder:
                    os.mkdir(name, 0o700, dir_fd=folder.dst)
                    dst = os.open(name, OPEN_FOLDER, dir_fd=folder.dst)
                    mode = status.st_mode & 0o7777
                    self._metadata.finish_folder(-1, dst, status, mode, 0o700)
                else:
                    mode = self._metadata.creation_mode(status.st_mode, [])
                    dst = os.open(name, _DST_FILE, mode, dir_fd=folder.dst)
                    self._metadata.finish_file(-1, dst, status, [])
                self._metadata.skip("mount")
                self.made["directory" if is_folder else "file"] += 1
        except OSError as error:
            raise failure(self._job, folder, name, operation, error) from error
        except FailedError as failed:
            raise failure(self._job, folder, name, failed.operation, failed.cause) from failed
        finally:
            if dst >= 0:
                os.close(dst)
        if self._job.cross_mounts:
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
            raise failure(self._job, folder, name, "stat", CHANGED)
        try:
            os.mknod(dst_name, mode, status.st_rdev, dir_fd=dst)
        except PermissionError as error:
            if kind not in ("char", "block"):
                raise
            if not self._metadata.refused("device", error):
                raise FailedError("mknod", error) from error
            return ""
        return kind

    def _link(self, folder: Folder, name: bytes, waiting: bytes, names: int) -> None:
        self._links.link(waiting, folder.dst, name, names)
        self.made["hardlink"] = self.made.get("hardlink", 0) + 1


CHANGED = OSError(errno.ESTALE, "it became another type of file during the copy")
"""What a name met as one type and found as another fails with."""

_MEANWHILE = {
    errno.ENOENT: "it vanished during the copy",
    # open(2): a link, no folder, a socket, where the folder's listing told otherwise
    **dict.fromkeys((errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.ENXIO), CHANGED.strerror),
}


def failure(job: Job, folder: Folder, name: bytes, operation: str, error: OSError) -> CopyError:
    """The error that names ``name`` of ``folder``, or the folder itself, as the user knows it."""
    path = folder.path(job, name)
    reason = _MEANWHILE.get(error.errno or 0) if operation in ("open", "stat") else None
    if reason is not None:
        return CopyError(path, operation, reason, error.errno)
    return CopyError.from_os_error(error, path, operation)


def _waiting_name(status: os.stat_result) -> bytes:
    """The name under which the copy of an inode with several names waits: device and inode."""
    return b"%x.%x" % (status.st_dev, status.st_ino)
