"""One worker of a copy: it goes through folders of its own, by descriptor, whatever their depth."""

from __future__ import annotations

import os
from itertools import islice

from reflayer.copy.entries import Entries
from reflayer.copy.folder import (
    FILE,
    FOLDER,
    LINK,
    SPECIAL,
    UNKNOWN,
    Filling,
    Folder,
    between_zeros,
    folder_key,
    kind_of,
)
from reflayer.copy.links import Links
from reflayer.copy.merged import go_below, is_whiteout, merge, note_made, shown
from reflayer.copy.method import LADDER, Method
from reflayer.copy.source import Merged
from reflayer.errors import CopyError
from reflayer.linux.names import listed, native
from reflayer.walk.facts import Facts, FailedError, list_attributes
from reflayer.walk.folders import OPEN_FOLDER, FolderStack, identity, open_noatime
from reflayer.walk.metadata import Metadata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from reflayer.copy.folder import Job, Names
    from reflayer.workers.pool import Workers

_clone_names: Any = getattr(native, "clone_names", None)
_clone_merged: Any = getattr(native, "clone_merged", None)

_BATCH = 64  # names read at once in Python

_MOST_LEFT = 250  # names that the part in C is told to leave: it compares each with each


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
        self.metadata = Metadata(job.ownership)
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

    def copy_names(self, folder: Folder, names: Names, merged: Mapping[bytes, list[int]]) -> None:
        """Copy ``names`` of ``folder``, whose counterpart has others already, and close it.

        ``merged`` has the folders in it that are to be copied from several layers, with those. The
        counterpart's own metadata is left to the caller.
        """
        try:
            self._make(folder, self._clone(folder, names))
            for name in merged:
                self._make_folder(folder, name)
            if merged:
                layers, facts = [folder.layer], Facts(folder.status, {})
                folder.merged = Merged(self._job.source, layers, facts)
                folder.merged.found.update(merged)
        except BaseException:
            folder.close()
            raise
        self.copy_below(folder)

    def _clone(self, folder: Folder, names: Names) -> Names:
        """Let the part in C make those of the names that are ordinary; the others."""
        if _clone_names is None:
            return names
        rest: list[tuple[int, bytes]] = []
        for piece in listed(names):
            left: bytes | None = piece
            while left:
                others, left = self._clone_some(folder, self._job.leave, left)
                rest += others
        return rest

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
        job, merged = self._job, parent.merged
        layers = None if merged is None else merged.found.get(name)
        layer = parent.layer if layers is None else layers[0]
        is_border = False
        src = dst = -1
        try:
            dst = os.open(name, OPEN_FOLDER, dir_fd=parent.dst)
            if layers is not None and len(layers) > 1:
                entered = self._enter_merged(parent, name, layers, dst)
                if entered is not None:
                    return entered
            if layer == parent.layer:
                src = open_noatime(name, parent.src, OPEN_FOLDER)
            else:
                src, is_border = job.source.open(layer, parent.path(name))
            folder = Folder(parent, name, src, dst, layer)
            status = folder.status
            if job.folders is not None:
                job.folders += (folder_key(layer, status.st_ino), os.fstat(dst).st_ino)
            if identity(status) == job.root:
                reason = "the destination is inside the source"
                raise CopyError(job.path(folder.path(), layer), "copy", reason)
            folder.is_border = is_border or (
                status.st_dev != parent.status.st_dev  # what was mounted meanwhile
                and layer == parent.layer
                and not job.cross_mounts
                and job.is_mount_point(parent, name)
            )
            if layers is not None and len(layers) > 1 and not folder.is_border:
                merge(job, folder, layers, self.metadata.skip)
        except BaseException as error:
            for fd in (src, dst):
                if fd >= 0:
                    os.close(fd)
            if isinstance(error, OSError):
                raise job.failure(parent, name, "open", error, layer) from error
            raise
        folder.filling = Filling()
        return folder

    def _enter_merged(
        self, parent: Folder, name: bytes, layers: list[int], dst: int
    ) -> Folder | None:
        """Let the part in C make what is ordinary in a folder of several layers, and enter it.

        ``dst``, its counterpart, is taken over, unless an error is raised. None, and nothing is
        made, where it is to be entered as any other. It has no ``filling`` where all is made.
        """
        job = self._job
        if _clone_names is None or _clone_merged is None or job.cross_mounts:
            return None
        new, device = job.new, parent.status.st_dev
        method = self.method.on(device)
        result = _clone_merged(
            job.source.packed(layers),
            parent.path(name),
            job.root[1] if job.root[0] == device else 0,
            device,
            dst,
            self.links.opened,
            LADDER.index(method),
            new.uid,
            new.gid,
            *job.ids,
            new.umask,
            job.folder_mode,
            job.leave,
        )
        if result is None:
            return None
        (files, again, links, made, size, packed, above), children, rest, left = result
        opened: list[int] = memoryview(packed).cast("i").tolist()
        try:
            self.entries.count_made(files, again, links, made)
            self.method.count_moved(method, size)
            folder = Folder(parent, name, opened[-1], dst, layers[-1])
            folder.children = children
            top = os.fstat(opened[0])
            facts = Facts(job.source.owned(top), {})
            merged = folder.merged = Merged(job.source, layers, facts)
            if job.folders is not None:
                job.folders += (folder_key(layers[0], top.st_ino), os.fstat(dst).st_ino)
            if any(above):
                for layer, fd, names in zip(layers, opened, above, strict=False):
                    folder.layer, folder.fd = layer, fd
                    self._make_these(folder, note_made(merged, layer, names))
                folder.layer, folder.fd = layers[-1], opened[-1]
            if rest:
                self._make(folder, note_made(merged, layers[-1], rest))
            if left is None:
                folder.children += merged.waiting
            else:
                filling = folder.filling = Filling()
                filling.left = left
                filling.leave = job.leave + between_zeros((*merged.found, *merged.hidden))
            while len(opened) > 1:
                os.close(opened.pop(0))
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return folder

    def _copy(self, folder: Folder) -> None:
        """Make every entry of ``folder``, its child folders empty, and then set its metadata."""
        if folder.is_border:
            self.metadata.skip("mount")
            self._finish(folder)
            return
        if folder.filling is None or self._fill(folder):
            self._finish(folder)

    def _finish(self, folder: Folder) -> None:
        mode = folder.final_mode()
        if folder.children and not self._stays_open(folder):
            folder.mode = mode
            mode = 0o700
        self.finish(folder, mode, self._job.folder_mode)

    def finish(self, folder: Folder, mode: int, mode_now: int) -> None:
        """Give a folder, made with ``mode_now``, its metadata, but ``mode`` for its own."""
        merged = folder.merged
        try:
            if merged is None:
                names = list_attributes(folder.src)
                self.entries.finish(
                    folder.layer, folder.src, folder.dst, folder.status, names, mode, mode_now
                )
            else:
                merged.facts.mode = mode
                new = self._job.new
                self.metadata.set_all(folder.dst, merged.facts, new.uid, new.gid, mode_now)
        except (OSError, FailedError) as error:
            layer = folder.layer if merged is None else merged.layers[0]
            raise self._job.failure(folder, b"", "set its times", error, layer) from error

    def _fill(self, folder: Folder) -> bool:
        """Make the entries of ``folder``, its child folders empty, which are noted for later.

        False where other workers are still at it.
        """
        filling = folder.filling
        assert filling is not None
        folder.filling = None
        while True:
            if filling.leave is None:
                filling.leave = self._names_to_leave(folder)
            try:
                if filling.leave is None:
                    self._fill_in_python(folder)
                else:
                    self._fill_by_names(folder, filling.leave, filling)
            except OSError as error:
                raise self._job.failure(folder, b"", "read the folder", error) from error
            if not filling.end():
                return False
            if not go_below(self._job, folder, self.metadata.skip):
                if folder.merged is not None:
                    folder.children += folder.merged.waiting
                return True
            filling.leave = None
            filling.begin()

    def _names_to_leave(self, folder: Folder) -> bytes | None:
        """The names that the part in C does not touch; None where that would be too many."""
        merged = folder.merged
        if _clone_names is None:
            return None
        if merged is None:
            return self._job.leave
        if len(merged.hidden) > _MOST_LEFT:
            return None
        names = (*merged.hidden, *(merged.above or merged.found))
        if len(names) > _MOST_LEFT:
            names = (*merged.hidden,)  # the others it finds made
        return self._job.leave + between_zeros(names)

    def _fill_by_names(self, folder: Folder, leave: bytes, filling: Filling) -> None:
        """Let the part in C make what is ordinary, batch by batch, and do the rest."""
        left: bytes | None
        left, filling.left = filling.left, b""
        while left is not None:
            rest, left = self._clone_some(folder, leave, left)
            if rest:
                self._make(folder, rest)
            if left is not None and self._workers.pause() and self._stays_open(folder):
                # The other worker reads on in the same listing: getdents64(2) goes by
                # the open file's offset, which the duplicates of a descriptor share.
                filling.begin()
                if not self._give(folder, [], filling):
                    filling.end()

    def _clone_some(self, folder: Folder, leave: bytes, left: bytes) -> tuple[Names, bytes | None]:
        """Make the next names that are ordinary; the others, and what is left."""
        new, method = self._job.new, self.method.on(folder.status.st_dev)
        (files, again, links, moved, _), folders, rest, left_now = _clone_names(
            folder.src,
            folder.dst,
            self.links.opened,
            LADDER.index(method),
            new.uid,
            new.gid,
            *self._job.ids,
            new.umask,
            self._job.folder_mode,
            leave,
            left,
        )
        self.entries.count_made(files, again, links, len(folders))
        if folder.merged is not None and files + again + links:
            folder.merged.has_others = True
        self.method.count_moved(method, moved)
        folder.add(folders)
        return rest, left_now

    def _fill_in_python(self, folder: Folder) -> None:
        with os.scandir(folder.src) as scan:
            while names := _read_names(scan):
                self._make(folder, names)
                self._workers.pause()

    def _stays_open(self, folder: Folder) -> bool:
        """Whether other workers can get into the folder when it has its mode, too."""
        return self._job.new.powerful or folder.final_mode() & 0o700 == 0o700

    def _make(self, folder: Folder, names: Names) -> None:
        """Make those of the names where ``folder`` is open that are the tree's."""
        self._make_these(folder, self._shown(folder, names))

    def _make_these(self, folder: Folder, names: Names) -> None:
        entries, merged = self.entries, folder.merged
        mounted = self._job.mount_names
        for kind, name in names:
            is_made = True
            if name in mounted and entries.copy_mounted(folder, name, kind == FOLDER):
                pass
            elif kind == FOLDER:
                self._make_folder(folder, name)
            elif kind == FILE:
                is_made = entries.copy_file(folder, name)
            else:
                is_made = entries.copy_special(folder, name)
            if merged is not None:
                merged.has_others = True
                if not is_made:
                    merged.hidden.add(name)

    def _shown(self, folder: Folder, names: Names) -> Names:
        """Those of the names where ``folder`` is open that are the tree's, with a known type."""
        job, merged = self._job, folder.merged
        if any(kind == UNKNOWN for kind, _ in names):  # some file systems do not tell
            names = [(kind or _type_of(folder, name, job), name) for kind, name in names]
        if job.source.has_whiteouts(folder.layer):
            names = [
                (kind, name)
                for kind, name in names
                if kind != SPECIAL or not is_whiteout(job, folder, name)
            ]
        return names if merged is None else shown(merged, folder.layer, names)

    def _make_folder(self, folder: Folder, name: bytes) -> None:
        try:
            os.mkdir(name, self._job.folder_mode, dir_fd=folder.dst)
        except OSError as error:
            raise self._job.failure(folder, name, "mkdir", error) from error
        self.entries.made["directory"] += 1
        folder.add([name])

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
            FILE
            if entry.is_file(follow_symlinks=False)
            else FOLDER
            if entry.is_dir(follow_symlinks=False)
            else LINK
            if entry.is_symlink()
            else SPECIAL,
            os.fsencode(entry.name),
        )
        for entry in islice(scan, _BATCH)
    ]


def _type_of(folder: Folder, name: bytes, job: Job) -> int:
    try:
        mode = os.stat(name, dir_fd=folder.src, follow_symlinks=False).st_mode
    except OSError as error:
        raise job.failure(folder, name, "stat", error) from error
    return kind_of(mode)
