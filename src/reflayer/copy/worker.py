"""One worker of a copy: it goes through folders of its own, by descriptor, whatever their depth."""

from __future__ import annotations

import os
import stat
from itertools import islice

from reflayer.copy.entries import Entries
from reflayer.copy.folder import Filling, Folder
from reflayer.copy.links import Links
from reflayer.copy.method import LADDER, Method
from reflayer.errors import CopyError
from reflayer.linux.names import native
from reflayer.walk.facts import FailedError, list_attributes
from reflayer.walk.folders import OPEN_FOLDER, FolderStack, identity, open_noatime
from reflayer.walk.metadata import Metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from reflayer.copy.folder import Job
    from reflayer.workers.pool import Workers

    Names = list[tuple[int, bytes]]

_clone_names: Any = getattr(native, "clone_names", None)

_BATCH = 64  # names read at once in Python

_UNKNOWN, _FOLDER, _FILE, _OTHER = 0, 4, 8, 10  # getdents64(2): d_type; _OTHER is that of links


class Worker:
    """Copies folders one after the other, and counts what it made.

    A folder's metadata is set as soon as every name in it exists: what happens later inside its
    child folders does not touch it any more.

    Attributes:
        method: copies contents; has the bytes by method.
        metadata: sets metadata; has what was left out.
        entries: makes what is no folder; has the names made, by type.
        links: where inodes with several names wait, to be closed after the last folder.
    """

    def __init__(self, job: Job, root: int, workers: Workers) -> None:
        """Prepare to copy into ``root``, an open folder, as one of ``workers``."""
        self.links = Links(root, job.links)
        self.method = Method(job.method, workers.pause)
        self.metadata = Metadata(job.ignore_refused)
        self.entries = Entries(job, self.method, self.metadata, self.links)
        self._stack = FolderStack[Folder](workers.most)
        self._workers = workers
        self._job = job

    def copy_below(self, root: Folder) -> None:
        """Copy everything below ``root`` that is to do, and close it."""
        with self._stack as stack:
            stack.push(root)
            if root.filling is not None and self._fill(root) and root.parent is not None:
                self._finish(root)
            while stack:
                folder = stack[-1]
                if self._workers.pause():
                    self._share()
                if folder.children:
                    child = self._enter(folder, folder.children.pop())
                    stack.push(child)
                    self._copy(child)
                else:
                    self._leave()

    def _share(self) -> None:
        """Give half of what is still to be copied in the outermost folder to an idle worker.

        It is likely the largest half. The last folder is kept: there would be nothing left to do.
        """
        open_ones = self._stack.open_ones()
        givable = [f for f in open_ones if f.children and f.src >= 0 and self._stays_open(f)]
        if not givable or (len(givable) == 1 and len(givable[0].children) == 1):
            return
        outermost = givable[0]
        half = (len(outermost.children) + 1) // 2
        if self._give(outermost, outermost.children[:half]):
            del outermost.children[:half]

    def _give(self, folder: Folder, children: list[bytes], filling: Filling | None = None) -> bool:
        """Give part of ``folder`` to an idle worker; False where it stays with this worker."""
        try:
            part = folder.part(children)
        except OSError:  # no descriptor is free: it goes without another worker, only slower
            return False
        part.filling = filling
        if self._workers.give(part):
            return True
        part.close()
        return False

    def _enter(self, parent: Folder, name: bytes) -> Folder:
        """Open the folder ``name`` of ``parent`` and its counterpart, which has been made."""
        src = dst = -1
        try:
            src = open_noatime(name, parent.src, OPEN_FOLDER)
            dst = os.open(name, OPEN_FOLDER, dir_fd=parent.dst)
            folder = Folder(parent, name, src, dst)
            status = folder.status
            job = self._job
            if identity(status) == job.root:
                reason = "the destination is inside the source"
                raise CopyError(job.path(folder.path()), "copy", reason)
            if (
                status.st_dev != parent.status.st_dev  # what was mounted meanwhile
                and not job.cross_mounts
                and job.is_mount_point(parent, name)
            ):
                folder.is_border = True
        except BaseException as error:
            for fd in (src, dst):
                if fd >= 0:
                    os.close(fd)
            if isinstance(error, OSError):
                raise self._job.failure(parent, name, "open", error) from error
            raise
        return folder

    def _copy(self, folder: Folder) -> None:
        """Make every entry of ``folder``, its child folders empty, and then set its metadata."""
        if folder.is_border:
            self.metadata.skip("mount")
            self._finish(folder)
            return
        folder.filling = Filling()
        if self._fill(folder):
            self._finish(folder)

    def _finish(self, folder: Folder) -> None:
        mode = folder.status.st_mode & 0o7777
        if folder.children and not self._stays_open(folder):
            folder.mode = mode
            mode = 0o700
        try:
            names = list_attributes(folder.src)
            made_with = self._job.folder_mode
            self.entries.finish(folder.src, folder.dst, folder.status, names, mode, made_with)
        except (OSError, FailedError) as error:
            raise self._job.failure(folder, b"", "set its times", error) from error

    def _fill(self, folder: Folder) -> bool:
        """Make the entries of ``folder``, its child folders empty, which are noted for later.

        False where other workers are still at it.
        """
        filling = folder.filling
        assert filling is not None
        folder.filling = None
        try:
            if _clone_names is None:
                self._fill_in_python(folder)
            else:
                self._fill_by_names(folder, filling)
        except OSError as error:
            raise self._job.failure(folder, b"", "read the folder", error) from error
        return filling.end()

    def _fill_by_names(self, folder: Folder, filling: Filling) -> None:
        """Let the part in C make what is ordinary, batch by batch, and do the rest."""
        job, entries = self._job, self.entries
        new = job.new
        left: bytes | None = b""
        while left is not None:
            method = self.method.on(folder.status.st_dev)
            (files, links, size), folders, rest, left = _clone_names(
                folder.src,
                folder.dst,
                LADDER.index(method),
                new.uid,
                new.gid,
                new.umask,
                job.folder_mode,
                job.leave,
                left,
            )
            entries.count_made(files, links, len(folders))
            self.method.count_moved(method, size)
            folder.children += folders
            if rest:
                self._make(folder, rest)
            if left is not None and self._workers.pause() and self._stays_open(folder):
                # The other worker reads on in the same listing: getdents64(2) goes by
                # the open file's offset, which the duplicates of a descriptor share.
                filling.begin()
                if not self._give(folder, [], filling):
                    filling.end()

    def _fill_in_python(self, folder: Folder) -> None:
        with os.scandir(folder.src) as scan:
            while names := _read_names(scan):
                self._make(folder, names)
                self._workers.pause()

    def _stays_open(self, folder: Folder) -> bool:
        """Whether other workers can get into the folder when it has its mode, too."""
        return self._job.new.powerful or folder.status.st_mode & 0o700 == 0o700

    def _make(self, folder: Folder, names: Names) -> None:
        entries = self.entries
        mounted = self._job.mount_names
        for kind, name in names:
            if kind == _UNKNOWN:  # some file systems do not tell
                kind = _type_of(folder, name, self._job)
            if name in mounted and entries.copy_mounted(folder, name, kind == _FOLDER):
                pass
            elif kind == _FOLDER:
                self._make_folder(folder, name)
            elif kind == _FILE:
                entries.copy_file(folder, name)
            else:
                entries.copy_special(folder, name)

    def _make_folder(self, folder: Folder, name: bytes) -> None:
        try:
            os.mkdir(name, self._job.folder_mode, dir_fd=folder.dst)
        except OSError as error:
            raise self._job.failure(folder, name, "mkdir", error) from error
        self.entries.made["directory"] += 1
        folder.children.append(name)

    def _leave(self) -> None:
        """Close the innermost folder, all below which is done, and return to the one above."""
        stack = self._stack
        folder = stack[-1]
        try:
            stack.reopen_parent()
            if folder.mode is not None:  # it may shut the way back
                os.chmod(folder.dst, folder.mode)
        except OSError as error:
            raise self._job.failure(folder, b"", "return to the parent", error) from error
        finally:
            stack.pop().close()


def _read_names(scan: Iterator[os.DirEntry[str]]) -> Names:
    """The next names of ``scan``, each with its type; none at its end."""
    return [
        (
            _FILE
            if entry.is_file(follow_symlinks=False)
            else _FOLDER
            if entry.is_dir(follow_symlinks=False)
            else _OTHER,
            os.fsencode(entry.name),
        )
        for entry in islice(scan, _BATCH)
    ]


def _type_of(folder: Folder, name: bytes, job: Job) -> int:
    try:
        mode = os.stat(name, dir_fd=folder.src, follow_symlinks=False).st_mode
    except OSError as error:
        raise job.failure(folder, name, "stat", error) from error
    return _FILE if stat.S_ISREG(mode) else _FOLDER if stat.S_ISDIR(mode) else _OTHER
