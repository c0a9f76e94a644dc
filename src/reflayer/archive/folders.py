"""The folders that are being worked in: found beneath the root by the kernel, kept open a while."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict

from reflayer.archive.layer_metadata import LayerFolder, LayerMetadata
from reflayer.archive.tar_header import join_path
from reflayer.archive.upper_paths import UpperPaths
from reflayer.errors import ArchiveError, OperationError
from reflayer.linux.openat2 import RESOLVE_IN_ROOT, openat2
from reflayer.walk.empty import empty_folder
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import (
    LONGEST_PATH,
    NO_FOLDER,
    OPEN_ANY_FOLDER,
    OPEN_FOLDER,
    most_open,
    open_beneath,
    open_shut,
)
from reflayer.workers.pool import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from reflayer.archive.layer_metadata import Key
    from reflayer.archive.tar_header import Entry


_MOST_LINKS = 40  # that one path may go through: path_resolution(7)
_ARCHIVE_FAULTS = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EFBIG})
IMPLIED_MODE = 0o755  # of a folder without an entry, as Docker and umoci have it
MOST_IMPLIED = 1 << 16  # folders: two bytes of a name are enough to ask for one
_IMPLIED_EACH = 32  # that a name may need beyond those


class Folders:
    """Folders by their paths from the root.

    Links on the way are followed as if the root were ``/`` (openat2(2): RESOLVE_IN_ROOT), which is
    where a container would find them. ``settle`` and ``other`` are those of ``files.Files``.
    """

    metadata_of: type[LayerMetadata] = LayerMetadata

    def __init__(
        self, root_path: bytes, ownership: str, owner: tuple[int, int] | None = None
    ) -> None:
        """What has no entry gets ``owner`` for its user and group, or else this process's."""
        self.root_path = root_path
        self._owner = owner or (os.geteuid(), os.getegid())
        try:
            fd = os.open(root_path, OPEN_ANY_FOLDER)
        except PermissionError:
            fd = open_shut(root_path)
        try:
            status = os.fstat(fd)
            is_powerful = os.geteuid() == 0
            self.root = LayerFolder(fd, status, status.st_ino, b".")
            if not is_powerful:
                self.root.let_in()
            self.root.withhold_default_acl()
            with os.scandir(fd) as scan:
                self.upper_paths = UpperPaths(status, everything=next(scan, None) is None)
            self.root.made = self.upper_paths.names_in(self.root.key)
            self.metadata = self.metadata_of(fd, ownership)
        except BaseException:
            os.close(fd)
            raise
        self._is_powerful = is_powerful  # permission bits do not bind us
        # All but the root, latest used last. Other layers are applied meanwhile, or wait: about
        # two for each processor.
        self._open: OrderedDict[Key, LayerFolder] = OrderedDict()
        self._most_open = most_open(2 * usable_cpus())
        self._by_path: dict[bytes, LayerFolder] = {b"": self.root}
        self._implied = 0
        self.settle: Callable[[LayerFolder | None], bool] = lambda _: False
        self.other: Callable[[LayerFolder, bytes], None] = lambda *_: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Shut all; with their metadata only where there was no error."""
        folders = [*self._open.values(), self.root]
        try:
            if error is None:
                if self.metadata.has_names:  # so that a look at the root tells
                    self.metadata.add_names(self.root.fd, b"")
                for folder in folders:
                    self._finish(folder)
        finally:
            for folder in folders:
                folder.shut()

    def at(self, path: bytes) -> LayerFolder:
        """The folder that ``path`` leads to; what is missing of it is made."""
        folder = self._known(path) or self._find(path) or self._walk(path, make=True)
        assert folder is not None
        return folder

    def existing(self, path: bytes) -> LayerFolder | None:
        """The folder that ``path`` leads to, or None where that is none."""
        try:
            return self._known(path) or self._find(path)
        except OSError as error:
            if error.errno in NO_FOLDER:
                return None
            raise

    def source(self, above: bytes, _: bytes) -> LayerFolder | None:
        """The folder at ``above``, with the file in it that a hard link is to be made of."""
        return self.existing(above)

    def status(self, dir_fd: int, name: bytes) -> os.stat_result:
        """The status of ``name`` in an open folder; FileNotFoundError where there is none."""
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)

    def _known(self, path: bytes) -> LayerFolder | None:
        folder = self._by_path.get(path)
        if folder is not None and folder is not self.root:
            self._open.move_to_end(folder.key)
        return folder

    def child(self, parent: LayerFolder, name: bytes) -> LayerFolder:
        """The folder ``name`` in ``parent``; ENOTDIR or ELOOP where it is a link or no folder."""
        return self._adopt(self._open_child(parent, name), join_path(parent.path, name))

    def beneath(self, top: int, above: bytes, path: bytes) -> LayerFolder:
        """The folder at ``path`` from the open folder ``top`` at ``above``, by way of no link."""
        return self._adopt(open_beneath(top, path), join_path(above, path))

    def enter(self, parent: LayerFolder, name: bytes, path: bytes, entry: Entry) -> None:
        """Make the folder ``name`` in ``parent`` for its ``entry`` at ``path``, or change it.

        Anything else of that name is replaced.
        """
        try:
            folder = self._make(parent, name, entry.mode)
        except FileExistsError:
            self.settle(None)
            try:
                folder = self.child(parent, name)
            except OSError as error:
                if error.errno not in NO_FOLDER:
                    raise
                folder = self._make_instead(parent, name, entry.mode)
            else:
                self._change(folder, entry)
        self._remember(path, folder)
        self.metadata.enter_folder(folder, entry)

    def enter_root(self, entry: Entry) -> None:
        """Change the root to what its ``entry`` says."""
        self.metadata.clear_attributes(self.root, entry.attributes)
        self.metadata.enter_folder(self.root, entry)

    def _change(self, folder: LayerFolder, entry: Entry) -> None:
        self.upper_paths.touch(folder)
        self.metadata.clear_attributes(folder, entry.attributes)

    def _make_instead(self, parent: LayerFolder, name: bytes, mode: int) -> LayerFolder:
        self.remove(parent, name)
        return self._make(parent, name, mode)

    def remove(self, folder: LayerFolder, name: bytes) -> None:
        """Delete ``name`` in ``folder``, and all in it if it is a folder itself."""
        self.settle(None)
        status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            path = os.path.join(self.root_path, join_path(folder.path, name))
            empty_folder(self._open_child(folder, name), path)
            os.rmdir(name, dir_fd=folder.fd)
        else:
            os.unlink(name, dir_fd=folder.fd)
            if not stat.S_ISLNK(status.st_mode):
                return
        # Any path may have led through it. The folders themselves stay open and are found again.
        self._by_path = {b"": self.root}

    def _find(self, path: bytes) -> LayerFolder | None:
        try:
            if len(path) > LONGEST_PATH:
                return self._walk(path, make=False)
            fd = openat2(self.root.fd, path, OPEN_ANY_FOLDER, RESOLVE_IN_ROOT)
        except FileNotFoundError:
            # A file that is still to be made is no folder, and may be on the way.
            return self._find(path) if self.settle(None) else None
        except PermissionError:
            # Root as well: the kernel lets nobody follow another's link in a folder like /tmp
            # (proc_sys_fs(5), protected_symlinks). What an image says of itself is followed.
            return self._walk(path, make=False)
        folder = self._adopt(fd, path)
        self._remember(path, folder)
        return folder

    def _walk(self, path: bytes, *, make: bool) -> LayerFolder | None:
        """Find ``path`` name by name, as openat2 would, and make what is missing if asked to."""
        way = self._way(make)
        try:
            self._follow(way, path)
            folder = way.folder()
        except FileNotFoundError:
            if make:
                raise
            return None
        finally:
            way.close()
        self._remember(path, folder)
        return folder

    def _way(self, make: bool) -> Way:
        return Way(self, make)

    def _follow(self, way: Way, path: bytes) -> None:
        self.settle(None)
        self._implied = max(self._implied - _IMPLIED_EACH, 0)
        todo = path.split(b"/")[::-1]
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                way.up()
            elif name not in (b"", b".") and (target := way.enter(name)) is not None:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith(b"/"):
                    way.top()
                todo += target.split(b"/")[::-1]

    def _make(self, parent: LayerFolder, name: bytes, mode: int) -> LayerFolder:
        folder = self._mkdir(parent, name, mode)
        self.upper_paths.add(parent, name)
        self.upper_paths.add_folder(folder.key)
        return folder

    def _mkdir(self, parent: LayerFolder, name: bytes, mode: int) -> LayerFolder:
        self.other(parent, name)
        needed = 0 if self._is_powerful else 0o700
        os.mkdir(name, mode & 0o777 | needed, dir_fd=parent.fd)
        fd = self._open_child(parent, name)
        status = os.fstat(fd)
        key = self.upper_paths.key(status)
        folder = LayerFolder(fd, status, key, join_path(parent.path, name))
        folder.mode = mode
        self._keep(folder)
        return folder

    def make_implied(self, parent: LayerFolder, name: bytes) -> LayerFolder:
        """Make a folder that has no entry."""
        self._implied += 1
        if self._implied > MOST_IMPLIED:
            raise ArchiveError("its name asks for too many folders that have no entry")
        folder = self._make(parent, name, IMPLIED_MODE)
        if (folder.uid, folder.gid) != self._owner:  # a setgid folder hands its group down, too
            os.chown(folder.fd, *self._owner)
            folder.uid, folder.gid = self._owner
        return folder

    def _open_child(self, parent: LayerFolder, name: bytes) -> int:
        try:
            return os.open(name, OPEN_FOLDER, dir_fd=parent.fd)
        except PermissionError:
            return open_shut(name, parent.fd)

    def _adopt(self, fd: int, path: bytes) -> LayerFolder:
        """The folder that ``fd`` is open on: at work already, or from now on."""
        status = os.fstat(fd)
        key = self.upper_paths.key(status)
        folder = self.root if key == self.root.key else self._open.get(key)
        if folder is not None:
            os.close(fd)
            if folder is not self.root:
                self._open.move_to_end(key)
            return folder
        folder = LayerFolder(fd, status, key, path)
        folder.made = self.upper_paths.names_in(key)
        self._keep(folder)
        if not self._is_powerful:
            folder.let_in()
        folder.withhold_default_acl()
        return folder

    def _keep(self, folder: LayerFolder) -> None:
        self._open[folder.key] = folder
        if len(self._open) > self._most_open:
            _, old = self._open.popitem(last=False)
            for path in old.names:
                if self._by_path.get(path) is old:
                    del self._by_path[path]
            self._finish(old)

    def _finish(self, folder: LayerFolder) -> None:
        try:
            self.settle(folder)
        except BaseException:
            self._open[folder.key] = folder  # files may be made in it until their thread has ended
            raise
        try:
            self._set_metadata(folder)
        except FailedError as error:
            raise failure(error, self.root_path, folder.path, error.operation) from error
        except ArchiveError as error:
            raise ArchiveError(error.reason, folder.path) from error
        finally:
            folder.shut()

    def _set_metadata(self, folder: LayerFolder) -> None:
        self.metadata.finish_folder(folder)

    def _remember(self, path: bytes, folder: LayerFolder) -> None:
        self._by_path[path] = folder
        folder.names.add(path)

    def hide(self, folder: LayerFolder, name: bytes) -> bool:
        """Delete ``name`` unless this layer made it; True if it made only things beneath it."""
        if folder.made is None or name in folder.made:
            return False
        try:
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        upper = self.upper_paths
        if stat.S_ISDIR(status.st_mode) and upper.has_lower_folder(upper.key(status)):
            return True
        self.remove(folder, name)
        return False

    def hide_lower(self, folder: LayerFolder, name: bytes) -> None:
        """Nothing of lower layers is to be at ``name``, where ``hide`` left none in the root."""

    def hide_all(self, folder: LayerFolder) -> bool:
        """Nothing of lower layers is to be in ``folder``; False where there is nothing in it."""
        if folder.made is None or folder.key in self.upper_paths.opaque:
            return False
        self.upper_paths.opaque.add(folder.key)
        return True


class Way:
    """How far a path was followed: a folder, by its path with no link in it."""

    def __init__(self, folders: Folders, make: bool) -> None:
        self._folders = folders
        self._make = make
        self.top()

    def top(self) -> None:
        self.names: list[bytes] = []
        self._folder = self._folders.root

    def up(self) -> None:
        """Go to the folder above; the root is above itself."""
        del self.names[-1:]
        root = self._folders.root
        path = b"/".join(self.names)
        self._folder = self._folders.beneath(root.fd, b".", path) if path else root

    def enter(self, name: bytes) -> bytes | None:
        """Go into the folder ``name``, or tell the target of the link that it is.

        Raises:
            OSError: ENOENT where there is none, and none is to be made.
        """
        try:
            self._folder = self._folders.child(self._folder, name)
        except FileNotFoundError:
            if not self._make:
                raise
            self._folder = self._folders.make_implied(self._folder, name)
        except OSError as error:
            if error.errno not in NO_FOLDER:
                raise
            try:
                return os.readlink(name, dir_fd=self._folder.fd)
            except OSError as no_link:
                raise error if no_link.errno == errno.EINVAL else no_link from None
        self.names.append(name)
        return None

    def folder(self) -> LayerFolder:
        return self._folder

    def close(self) -> None:
        """Close what is open for the way alone."""


def link_at(src: int, target: bytes, dst: int, name: bytes) -> None:
    """Give ``target`` in the open folder ``src`` the further name ``name`` in ``dst``."""
    os.link(target, name, src_dir_fd=src, dst_dir_fd=dst, follow_symlinks=False)


def failure(
    error: FailedError | OSError, root: bytes, path: bytes, operation: str
) -> ArchiveError | OperationError:
    """The error of a failed call: the archive's, if it asks for what cannot be, or the system's."""
    if isinstance(error, FailedError):
        operation, error = error.operation, error.cause
    if error.errno in _ARCHIVE_FAULTS:
        return ArchiveError(f"{operation}: {error.strerror}", path)
    return OperationError.from_os_error(error, os.path.join(root, path), operation)
