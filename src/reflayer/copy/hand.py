"""One hand of a copy: it works through folders of its own, by descriptor, whatever their depth."""

from __future__ import annotations

import os

from reflayer.copy.content import Content
from reflayer.copy.entries import Entries, failure
from reflayer.copy.folder import OPEN_FOLDER, Folder, identity, open_source
from reflayer.copy.metadata import FailedError, Metadata
from reflayer.copy.mounts import is_mount_point
from reflayer.copy.split import BATCH, FILE, FOLDER, Split, read_names
from reflayer.errors import CopyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.copy.birth import Birth
    from reflayer.copy.job import Job
    from reflayer.copy.links import Links
    from reflayer.copy.sharing import Sharing, Work
    from reflayer.copy.split import Names

_OPEN_LEVELS = 64  # folders whose descriptors stay open; those further up are shelved
_MOST_GIVEN = 256  # folders at once: 64 KiB of names
_WAITS = 8  # folders at the most whose rest others make while this hand does something else


class Hand:
    """Copies folders one after the other, and counts what it made.

    A folder's metadata is set as soon as every name in it exists: what happens later inside its
    child folders does not touch it any more.

    Attributes:
        content: copies contents; has the bytes by method.
        metadata: sets metadata; has what was left out.
        entries: makes what is no folder; has the names made, by type.
        stack: the folders from the outermost to the innermost, with what is still to be copied.
        sharing: how work is given to other hands, once there are any.
    """

    def __init__(self, job: Job, birth: Birth, links: Links, pause: Callable[[Hand], None]) -> None:
        """``pause`` is called now and then, between two entries; what it raises ends the copy."""
        self.content = Content(job.method, job.fall_back, lambda: pause(self))
        self.metadata = Metadata(birth, job.ignore_refused)
        self.entries = Entries(job, self.content, self.metadata, links)
        self.stack: list[Folder] = []
        self.sharing: Sharing | None = None
        self._waits = 0
        self._job = job
        self._powerful = birth.powerful
        self._pause = pause

    def copy_below(self, root: Folder) -> None:
        """Copy everything below ``root`` and close it; its own metadata is left to the caller.

        Raises:
            CopyError: something failed; what was made so far stays.
        """
        self._run(root, self._fill)

    def do(self, work: Work) -> None:
        """Do a piece of work that another hand gave away, and close its folder.

        Raises:
            CopyError: something failed; what was made so far stays.
        """

        def make_names(folder: Folder) -> None:
            try:
                self._make(folder, work.names)
            finally:
                work.close()

        self._run(work.folder, make_names)

    def share(self, sharing: Sharing) -> None:
        """Give half of what is still to be copied in the outermost folder to whoever is idle.

        It is likely the largest half. The last folder is kept: there would be nothing left to do.
        """
        open_ones = self.stack[-_OPEN_LEVELS:]  # not all: a stack can have tens of thousands
        givable = [f for f in open_ones if f.children and f.src >= 0 and self._stays_open(f)]
        if not givable or (len(givable) == 1 and len(givable[0].children) == 1):
            return
        outermost = givable[0]
        half = outermost.children[: min((len(outermost.children) + 1) // 2, _MOST_GIVEN)]
        if sharing.give(outermost, half):
            del outermost.children[: len(half)]

    def _run(self, first: Folder, begin: Callable[[Folder], None]) -> None:
        outer, self.stack = self.stack, [first]
        stack = self.stack
        try:
            begin(first)
            while stack:
                self._pause(self)
                folder = stack[-1]
                if folder.children:
                    child = self._enter(folder, folder.children.pop())
                    stack.append(child)
                    if len(stack) > _OPEN_LEVELS:
                        stack[-_OPEN_LEVELS].shelve()
                    self._copy(child)
                else:
                    self._leave(stack)
        finally:
            for folder in stack:
                folder.close()
            self.stack = outer

    def _enter(self, parent: Folder, name: str) -> Folder:
        """Open the folder ``name`` of ``parent`` and its counterpart, which has been made.

        Raises:
            CopyError: one of them is no folder any more, or the source is the destination's root.
        """
        src = dst = -1
        try:
            src = open_source(name, parent.src, OPEN_FOLDER)
            dst = os.open(name, OPEN_FOLDER, dir_fd=parent.dst)
            folder = Folder(parent, name, src, dst)
            status = folder.status
            job = self._job
            if identity(status) == job.root:
                raise CopyError(folder.path(job), "copy", "the destination is inside the source")
            if (
                status.st_dev != parent.status.st_dev  # what was mounted meanwhile
                and not job.cross_mounts
                and is_mount_point(job, parent, name)
            ):
                folder.is_border = True
        except BaseException as error:
            for fd in (src, dst):
                if fd >= 0:
                    os.close(fd)
            if isinstance(error, OSError):
                raise failure(self._job, parent, name, "open", error) from error
            raise
        return folder

    def _copy(self, folder: Folder) -> None:
        """Make every entry of ``folder``, its child folders empty, and then set its metadata."""
        if folder.is_border:
            self.metadata.skip("mount")
        else:
            self._fill(folder)
        mode = folder.status.st_mode & 0o7777
        if folder.children and mode & 0o700 != 0o700 and not self._powerful:
            folder.mode = mode
            mode = 0o700
        try:
            self.metadata.finish_folder(
                folder.src, folder.dst, folder.status, mode, self._job.folder_mode
            )
        except FailedError as failed:
            raise failure(self._job, folder, "", failed.operation, failed.cause) from failed

    def _fill(self, folder: Folder) -> None:
        """Make every entry of ``folder``; child folders are made empty and noted for later."""
        split = None
        try:
            scan = os.scandir(folder.src)
        except OSError as error:
            raise failure(self._job, folder, "", "read the folder", error) from error
        try:
            with scan:
                while names := self._read(folder, scan):
                    self._make(folder, names)
                    if len(names) < BATCH:
                        break
                    self._pause(self)
                    if self.sharing is not None and self._may_split(folder, self.sharing):
                        split = split or Split(self.sharing, folder)
                        names = self._read(folder, scan)
                        if names and not split.give(names):
                            self._make(folder, names)
            if split:
                self._waits += 1
                split.wait(self.do)
                self._waits -= 1
        finally:
            if split:
                split.close()

    def _read(self, folder: Folder, scan: Iterator[os.DirEntry[str]]) -> Names:
        try:
            return read_names(scan)
        except OSError as error:
            raise failure(self._job, folder, "", "read the folder", error) from error

    def _may_split(self, folder: Folder, sharing: Sharing) -> bool:
        # Who waits for others works for others, and may come to wait there: not for ever deeper.
        # A mode that shuts us out can be set only when all below is done, which others would not
        # tell.
        return sharing.board.calls() and self._waits < _WAITS and self._stays_open(folder)

    def _stays_open(self, folder: Folder) -> bool:
        """Whether other hands can get into the folder when it has its mode, too."""
        return self._powerful or folder.status.st_mode & 0o700 == 0o700

    def _make(self, folder: Folder, names: Names) -> None:
        entries = self.entries
        mounted = self._job.mount_names
        for kind, name in names:
            if name in mounted and entries.copy_mounted(folder, name, kind == FOLDER):
                pass
            elif kind == FOLDER:
                self._make_folder(folder, name)
            elif kind == FILE:
                entries.copy_file(folder, name)
            else:
                entries.copy_special(folder, name)

    def _make_folder(self, folder: Folder, name: str) -> None:
        try:
            os.mkdir(name, self._job.folder_mode, dir_fd=folder.dst)
        except OSError as error:
            raise failure(self._job, folder, name, "mkdir", error) from error
        self.entries.made["directory"] += 1
        folder.children.append(name)

    def _leave(self, stack: list[Folder]) -> None:
        """Close the innermost folder, all below which is done, and return to the one above."""
        folder = stack.pop()
        try:
            if stack and stack[-1].src < 0:
                stack[-1].reopen(folder)
            if folder.mode is not None:  # it may shut the way back
                os.chmod(folder.dst, folder.mode)
        except OSError as error:
            raise failure(self._job, folder, "", "return to the parent", error) from error
        finally:
            folder.close()
