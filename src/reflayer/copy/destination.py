"""The destination of a copy: checked, made ready, and made what it was after a failure."""

from __future__ import annotations

import errno
import os
import stat

from reflayer.copy.folder import copy_error
from reflayer.errors import CopyError, failing
from reflayer.linux.openat2 import RESOLVE_NO_XDEV, openat2
from reflayer.walk.facts import FailedError, list_attributes
from reflayer.walk.folders import OPEN_ANY_FOLDER, OPEN_FOLDER, identity, open_noatime
from reflayer.walk.mounts import NO_OPENAT2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY  # search permission is enough
_ATTRIBUTES = ("user.", "trusted.", "system.posix_acl_access", "system.posix_acl_default")


class Destination:
    """The destination's place, and the folder there once ``make`` has been called.

    Attributes:
        path: the path as the user named it.
        place: an open folder on its file system: the destination or its parent.
        fd: the destination's root, open; -1 before ``make``.
    """

    def __init__(self, path: bytes) -> None:
        """Look at the place without changing it: it has to be absent or an empty folder."""
        self.fd = -1
        self._attributes: dict[str, bytes] = {}
        self._made = False
        self._before: os.stat_result | None = None
        self.path = path if path.strip(b"/") == b"" else path.rstrip(b"/")
        with failing(path, "stat", CopyError):
            try:
                self._before = os.lstat(self.path)
            except FileNotFoundError:
                pass
        if self._before is not None and not stat.S_ISDIR(self._before.st_mode):
            raise CopyError(path, "create", "it exists and is not a folder", errno.ENOTDIR)
        place = self.path if self._before else os.path.dirname(self.path) or b"."
        with failing(place, "open", CopyError):
            self.place = open_noatime(place, None, OPEN_ANY_FOLDER)
        try:
            with failing(path, "look whether it is empty", CopyError):
                if self._before and os.listdir(self.place):
                    raise CopyError(path, "create", "the folder is not empty", errno.ENOTEMPTY)
        except CopyError:
            self.close()
            raise

    def refuse_inside(self, source: int, cross_mounts: bool) -> None:
        """Refuse to copy the open folder ``source`` into itself.

        What is mounted in it counts only where mounts are crossed.
        """
        wanted = identity(os.fstat(source))
        with failing(self.path, "look above it", CopyError):
            try:
                is_inside = _is_below(self.place, wanted, _above)
                if is_inside and not cross_mounts:
                    is_inside = _is_below(self.place, wanted, _above_in_mount)
            except PermissionError:
                return  # not searchable further up; the copy itself stops where it meets ``dst``
        if is_inside:
            reason = "the destination is inside the source"
            raise CopyError(self.path, "create", reason, errno.EINVAL)

    def make(self) -> None:
        """Make the folder where it is absent, and take from it all that it inherited."""
        try:
            if self._before is None:
                name = os.path.basename(self.path)
                os.mkdir(name, 0o700, dir_fd=self.place)
                self._made = True
                self.fd = os.open(name, OPEN_FOLDER, dir_fd=self.place)
            else:
                self.fd = os.dup(self.place)
            self._disinherit()
        except (OSError, FailedError) as error:
            self.undo()
            raise copy_error(error, self.path, "create") from error

    def _disinherit(self) -> None:
        # What is made in here must not take its group or ACL from it, and a folder that was there
        # becomes as one that is made now; all is set again at the end.
        status = os.fstat(self.fd)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            # A file system may have its own mind: what is made inside is looked at, too.
            try:
                os.chown(self.fd, os.geteuid(), os.getegid())
            except PermissionError:
                pass
        for attribute in list_attributes(self.fd):
            if attribute.startswith(_ATTRIBUTES):
                self._attributes[attribute] = os.getxattr(self.fd, attribute)
                os.removexattr(self.fd, attribute)
        if stat.S_IMODE(status.st_mode) != 0o700:
            os.chmod(self.fd, 0o700)

    def undo(self) -> None:
        """Remove what was made: all inside, and the folder itself where it was absent before."""
        if self._made:
            try:  # first, since it needs no descriptor, and there may be too many
                self._remove()
                return
            except OSError:  # something is in it
                pass
        if self.fd >= 0:
            from reflayer.walk.empty import empty_folder  # it costs start-up time

            empty_folder(os.dup(self.fd), self.path)
            self._restore()
        if self._made:
            self._remove()

    def _remove(self) -> None:
        try:
            os.rmdir(os.path.basename(self.path), dir_fd=self.place)
        except FileNotFoundError:
            pass

    def _restore(self) -> None:
        if self._before is None:
            return
        owner = self._before.st_uid, self._before.st_gid
        status = os.fstat(self.fd)
        if (status.st_uid, status.st_gid) != owner:
            os.chown(self.fd, *owner)
        for attribute, value in self._attributes.items():
            os.setxattr(self.fd, attribute, value)
        status = os.fstat(self.fd)
        if status.st_mode != self._before.st_mode:
            os.chmod(self.fd, stat.S_IMODE(self._before.st_mode))
        if status.st_mtime_ns != self._before.st_mtime_ns:
            os.utime(self.fd, ns=(self._before.st_atime_ns, self._before.st_mtime_ns))

    def close(self) -> None:
        """Shut the descriptors."""
        for fd in {self.fd, self.place}:
            if fd >= 0:
                os.close(fd)
        self.fd = self.place = -1


def _is_below(place: int, wanted: tuple[int, int], above: Callable[[int], int]) -> bool:
    """Whether repeated calls of ``above`` lead from the open folder ``place`` to ``wanted``."""
    folder = os.dup(place)
    try:
        while (here := identity(os.fstat(folder))) != wanted:
            below, folder = folder, above(folder)
            os.close(below)
            if identity(os.fstat(folder)) == here:
                return False
    finally:
        os.close(folder)
    return True


def _above(folder: int) -> int:
    return os.open("..", _LOOK | os.O_CLOEXEC, dir_fd=folder)


def _above_in_mount(folder: int) -> int:
    """The folder above in the same mount; at its top that itself, as at the top of all."""
    try:
        return openat2(folder, b"..", _LOOK, RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return os.dup(folder)
        if error.errno in NO_OPENAT2:
            return _above(folder)
        raise
