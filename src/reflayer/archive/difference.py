"""A layer applied to an empty folder, which becomes its difference on the stack below.

What has an entry is made as it is anywhere, and nothing below is looked at. That is done for what
a path leads through without an entry (``UnionWay``): such a folder is copied up, empty and with
the metadata that it has below, and so is a file that a hard link is made of, with all its names.
Neither is the layer's own, so its whiteouts hide them like all else that lower layers have.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from reflayer.archive.copy_up import copy_up, folder_facts, linked_names, tops_of
from reflayer.archive.folders import Folders, Way, failure, link_at
from reflayer.archive.layer_metadata import LayerMetadata
from reflayer.archive.tar_header import CHAR, FILE
from reflayer.archive.upper_paths import UnionPaths
from reflayer.errors import OperationError
from reflayer.linux.xattrs import is_of_tree
from reflayer.walk.facts import (
    OF_THE_DATA,
    FailedError,
    list_attributes,
)
from reflayer.walk.folders import NO_FOLDER, identity
from reflayer.walk.overlay import (
    WHITEOUT_MODE,
    Marks,
    difference_attributes,
    is_whiteout,
    tree_attributes,
)
from reflayer.walk.recorded import names_in
from reflayer.walk.stack import Part, Union, opened_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from reflayer.archive.copy_up import Inode, Name
    from reflayer.archive.layer_metadata import LayerFolder
    from reflayer.archive.tar_header import Entry
    from reflayer.walk.stack import Stack


_ABSENT = frozenset({errno.ENOENT, *NO_FOLDER})
_REFUSED = PermissionError(errno.EPERM, os.strerror(errno.EPERM))


class DifferenceMetadata(LayerMetadata):
    """Sets what entries say in the way in which a difference has it."""

    def __init__(self, root: int, ownership: str) -> None:
        super().__init__(root, ownership)
        self.marks = Marks(root)

    def of_tree(self, attributes: Mapping[str, bytes]) -> dict[str, bytes]:
        return difference_attributes(super().of_tree(attributes))

    def make_file_of(self, entry: Entry) -> bool:
        if entry.type != CHAR or entry.device != (0, 0):
            return False
        for name in entry.attributes:
            if name.startswith("user."):  # xattr(7): not on a device
                self._attribute_failed(name, _REFUSED)
        entry.type = FILE
        kept = {name: v for name, v in entry.attributes.items() if not name.startswith("user.")}
        entry.attributes = kept | self.marks.device
        return True

    def clear_attributes(self, folder: LayerFolder, kept: Mapping[str, bytes]) -> None:
        present = dict.fromkeys(list_attributes(folder.fd), b"")
        marks = present.keys() - difference_attributes(tree_attributes(present)).keys()
        super().clear_attributes(folder, {**dict.fromkeys(marks, b""), **kept})

    def _attribute_failed(self, name: str, error: OSError) -> None:
        # Of a folder below there may be some that belong to its host or file system.
        if is_of_tree(name) or error.errno in OF_THE_DATA:
            as_in_the_layer = next(iter(tree_attributes({name: b""})), name)
            super()._attribute_failed(as_in_the_layer, error)


class UnionFolders(Folders):
    """The folders of a difference, found as if it lay on the stack that ``below`` tells of."""

    metadata_of = DifferenceMetadata
    metadata: DifferenceMetadata
    upper_paths: UnionPaths

    def __init__(
        self,
        root_path: bytes,
        ownership: str,
        owner: tuple[int, int] | None,
        below: Callable[[], Stack],
    ) -> None:
        """As ``Folders``; ENOTEMPTY where there is something in the root."""
        super().__init__(root_path, ownership, owner)
        if not self.upper_paths.everything:
            self.root.shut()
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        self.upper_paths = UnionPaths(os.fstat(self.root.fd), self._forget)
        self.root.made = self.upper_paths.names_in(self.root.key)
        self._marks = self.metadata.marks
        self._has_root_entry = self._is_by_link = False
        self._entered: set[bytes] = set()  # paths of folders that have entries
        self._below = below
        self._lower: Union | None = None  # its root, once it was asked for
        self._twins: dict[Inode, list[Name]] | None = None  # the names of its inodes of several
        self._begin()

    def _begin(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self._complete()
        except BaseException as failed:
            error = failed
            raise
        finally:
            if self._lower is not None:
                self._lower.close()
            super().__exit__(kind, error, trace)

    def _complete(self) -> None:
        """The archive has ended."""
        if not self._has_root_entry:
            self._copy_up_root()
        if self.metadata.records and self._entered and not self.is_opaque(self.root):
            self._keep_names()

    def _keep_names(self) -> None:
        """Let folders that have entries keep the recorded owners of links that they have below."""
        lower = self.lower_root()
        if names_in(lower.parts[0].fd) is None:
            return
        for path in self._entered:
            try:
                with opened_in(lower, path) as below:
                    record = names_in(below.parts[0].fd)
            except OSError:  # it is not below
                continue
            if record is not None and (folder := self.existing(path)) is not None:
                self.metadata.add_names(folder.fd, record)

    def lower_root(self) -> Union:
        """The root of the stack below."""
        if self._lower is None:
            stack = self._below()
            try:
                self._lower = Union.root(stack)
            except OSError as error:
                path = error.filename or stack.paths[0]
                raise OperationError.from_os_error(error, path, "open") from error
        return self._lower

    def existing(self, path: bytes) -> LayerFolder | None:
        try:
            return self._known(path) or self._find(path) or self._walk(path, make=False)
        except OSError as error:
            if error.errno in NO_FOLDER:
                return None
            raise

    def source(self, above: bytes, name: bytes) -> LayerFolder | None:
        folder = self._known(above) or self._find(above)
        if folder is not None and _is_there(folder, name):
            return folder
        way = UnionWay(self, False)
        try:
            try:
                self._follow(way, above)
            except OSError as error:
                if error.errno in _ABSENT:
                    return None
                raise
            found = way.find(name)
            if found is not None and not stat.S_ISDIR(found[1].st_mode):
                return self._copy_up_file((way.names, name), found[1])
            folder = way.folder()
            if found is not None:  # the link is an error, which is told of what is in the root
                way.enter(name)
                way.folder()
        finally:
            way.close()
        return folder

    def status(self, dir_fd: int, name: bytes) -> os.stat_result:
        status = super().status(dir_fd, name)
        if is_whiteout(status):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return status

    def enter(self, parent: LayerFolder, name: bytes, path: bytes, entry: Entry) -> None:
        super().enter(parent, name, path, entry)
        if self.metadata.records:
            self._entered.add(path)

    def enter_root(self, entry: Entry) -> None:
        super().enter_root(entry)
        self._entered.add(b"")
        self._has_root_entry = True

    def make_implied(self, parent: LayerFolder, name: bytes) -> LayerFolder:
        try:
            folder = super().make_implied(parent, name)
        except FileExistsError:  # a whiteout
            os.unlink(name, dir_fd=parent.fd)
            folder = super().make_implied(parent, name)
            self._set_opaque(folder)
        self._marks.set_implied(folder.fd)
        return folder

    def copy_up_folder(self, parent: LayerFolder, name: bytes, part: Part) -> LayerFolder:
        """Make the folder ``name`` that stands below; ``part`` is the topmost that does."""
        facts = folder_facts(part)
        folder = self._mkdir(parent, name, facts.mode)
        self.upper_paths.add_lower_folder(folder)
        self._marks.set_implied(folder.fd)
        self.metadata.enter_folder(folder, facts)
        return folder

    def hide(self, folder: LayerFolder, name: bytes) -> bool:
        try:
            status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(status.st_mode):
            if self.upper_paths.has_entries(self.upper_paths.key(status)):
                return True
        elif (folder.key, name) not in self.upper_paths.lower_files:
            return False
        self.remove(folder, name)
        return False

    def hide_lower(self, folder: LayerFolder, name: bytes) -> None:
        self.other(folder, name)
        with suppress(FileExistsError):
            os.mknod(name, WHITEOUT_MODE, 0, dir_fd=folder.fd)
            self._forget()

    def hide_all(self, folder: LayerFolder) -> bool:
        if self.is_opaque(folder):
            return False
        self._set_opaque(folder)
        self._forget()
        return True

    def is_opaque(self, folder: LayerFolder) -> bool:
        """Whether nothing below is to be seen in a folder of the root."""
        return folder.key in self.upper_paths.opaque

    def note_link(self, names: list[bytes]) -> None:
        """Paths lead by a link below, which is at the path that ``names`` are."""
        self.upper_paths.watch(names)
        if not self._is_by_link:
            self._marks.set_by_link(self.root.fd)
            self._is_by_link = True

    def _set_opaque(self, folder: LayerFolder) -> None:
        self._marks.set_opaque(folder.fd)
        self.upper_paths.opaque.add(folder.key)

    def _forget(self) -> None:
        """Any path may have led by what has just been hidden."""
        self._by_path = {b"": self.root}

    def _find(self, path: bytes) -> LayerFolder | None:
        """What is found in the root alone is so in the union."""
        try:
            return super()._find(path)
        except OSError as error:
            if error.errno in NO_FOLDER:  # a whiteout, perhaps
                return None
            raise

    def _way(self, make: bool) -> Way:
        return UnionWay(self, make)

    def _change(self, folder: LayerFolder, entry: Entry) -> None:
        super()._change(folder, entry)
        self._marks.clear_implied(folder.fd)
        self.upper_paths.add_entry(folder)

    def _make_instead(self, parent: LayerFolder, name: bytes, mode: int) -> LayerFolder:
        folder = super()._make_instead(parent, name, mode)
        self._set_opaque(folder)
        return folder

    def _copy_up_root(self) -> None:
        part = self.lower_root().parts[0]
        try:
            facts = folder_facts(part)
            self.metadata.clear_attributes(self.root, facts.attributes)
            self.metadata.enter_folder(self.root, facts)
            self._marks.set_implied(self.root.fd)
        except (OSError, FailedError) as error:
            raise failure(error, self.root_path, b".", "copy up") from error

    def _copy_up_file(self, target: Name, status: os.stat_result) -> LayerFolder | None:
        """Make the file ``target`` of a layer below by all its names that are to be seen.

        Returns the folder of ``target``.
        """
        folder, first, first_name = None, -1, b""
        try:
            for path, name in [*self._other_names(target, status), target]:
                way = UnionWay(self, False)
                try:
                    part = _shows(way, path, name, status)
                    if part is None:
                        continue
                    folder = way.folder()
                    self.other(folder, name)
                    if first < 0:
                        copy_up(part, status, name, folder.fd, self.metadata, self._marks)
                        first, first_name = os.dup(folder.fd), name
                    else:
                        link_at(first, first_name, folder.fd, name)
                    self.upper_paths.add_lower_file(folder, name)
                finally:
                    way.close()
        finally:
            if first >= 0:
                os.close(first)
        return folder

    def _other_names(self, name: Name, status: os.stat_result) -> list[Name]:
        if status.st_nlink == 1:
            return []
        if self._twins is None:
            self._twins = linked_names(self.lower_root())
        return [twin for twin in self._twins[identity(status)] if twin != name]


class UnionWay(Way):
    """How far a path was followed in the union of the root and the stack below."""

    _folders: UnionFolders
    _in_root: LayerFolder | None

    def __init__(self, folders: UnionFolders, make: bool) -> None:
        is_hidden = folders.is_opaque(folders.root)
        self._lower = self._lower_root = Union([]) if is_hidden else folders.lower_root()
        super().__init__(folders, make)

    def top(self) -> None:
        self.names = []
        self._tops: list[list[Part]] = []  # for each folder on the way
        self._go(self._folders.root, self._lower_root)

    def up(self) -> None:
        if not self.names:
            return
        self.names.pop()
        self._tops.pop()
        if not self.names:
            self.top()
            return
        folders = self._folders
        path = b"/".join(self.names)
        in_root = None
        with suppress(FileNotFoundError):
            in_root = folders.beneath(folders.root.fd, b".", path)
        self._go(in_root, Union.beneath(path, self._tops[-1]))

    def enter(self, name: bytes) -> bytes | None:
        inside, is_hidden = None, False
        if self._in_root is not None:
            try:
                inside = self._folders.child(self._in_root, name)
                is_hidden = self._folders.is_opaque(inside)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in NO_FOLDER:
                    raise
                status = os.stat(name, dir_fd=self._in_root.fd, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    return os.readlink(name, dir_fd=self._in_root.fd)
                if not is_whiteout(status):
                    raise
                is_hidden = True
        lower = Union([])
        if not is_hidden:
            try:
                lower = self._lower.enter(name)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in NO_FOLDER:
                    raise
                if inside is None:
                    return self._target(name, error)
        if inside is None and not lower.parts:
            if not self._make:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            inside = self._folders.make_implied(self.folder(), name)
        self._go(inside, lower)
        self.names.append(name)
        self._tops.append(tops_of(lower, self._lower_root))
        return None

    def find(self, name: bytes) -> tuple[Part, os.stat_result] | None:
        """Where ``name`` is to be had below; None where it is not, or stands in the root."""
        if self._in_root is not None and _is_there(self._in_root, name):
            return None
        return self._lower.find(name)

    def folder(self) -> LayerFolder:
        """The folder in the root, copied up where it is only below."""
        if self._in_root is None:
            way = UnionWay(self._folders, make=False)
            try:
                for name in self.names:
                    above = way.folder()
                    way.enter(name)
                    if way._in_root is None:
                        part = way._lower.parts[0]
                        way._in_root = self._folders.copy_up_folder(above, name, part)
                self._in_root = way.folder()
            finally:
                way.close()
        return self._in_root

    def close(self) -> None:
        self._go(None, self._lower_root)

    def _go(self, in_root: LayerFolder | None, lower: Union) -> None:
        if self._lower is not self._lower_root:
            self._lower.close()
        self._in_root, self._lower = in_root, lower

    def _target(self, name: bytes, error: OSError) -> bytes:
        """Where the link ``name`` below leads; ``error`` is raised where it is none."""
        found = self._lower.find(name)
        if found is None or not stat.S_ISLNK(found[1].st_mode):
            raise error
        self._folders.note_link([*self.names, name])
        return os.readlink(name, dir_fd=found[0].fd)


def _shows(way: UnionWay, path: list[bytes], name: bytes, status: os.stat_result) -> Part | None:
    """Where ``name`` at ``path`` is to be had below, if what is to be seen there is that inode."""
    try:
        if any(way.enter(step) is not None for step in path):
            return None
        found = way.find(name)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None
    return found[0] if found and identity(found[1]) == identity(status) else None


def _is_there(folder: LayerFolder, name: bytes) -> bool:
    return os.access(name, os.F_OK, dir_fd=folder.fd, follow_symlinks=False)
