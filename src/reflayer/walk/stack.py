"""A stack of layers looked at as the one tree that it is: the union, by overlayfs' rules.

A name is that of the topmost layer that has it. Folders of one name are one folder, down to the
first that is opaque, or to a layer that has something else there; its metadata is the topmost one's
(overlayfs.rst in the kernel's documentation, "Directories").
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import contextmanager

from reflayer.record import record
from reflayer.walk.folders import (
    NO_FOLDER,
    OPEN_ANY_FOLDER,
    OPEN_FOLDER,
    AnyPath,
    encode_name,
    identity,
    open_beneath,
    open_noatime,
    open_parent,
)
from reflayer.walk.id_map import converted_attributes, converted_status
from reflayer.walk.overlay import is_device, is_opaque, is_whiteout, tree_attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from reflayer.walk.id_map import Conversion

_MOST_OPEN = 256  # folders on the way to one


@record
class Stack:
    """Paths of layers, of which each lies on the next.

    A plain sequence of paths means the same, but then a whiteout in the lowest is an error: it
    would hide what is not there, so perhaps a layer is missing. Here it is a device of the tree.
    With ``ids`` all owners in the tree are others than those that the layers have.
    """

    differences: tuple[bytes, ...]  # the topmost first
    whole: bytes
    ids: Conversion | None = None

    @property
    def paths(self) -> tuple[bytes, ...]:
        """All of them, the topmost first."""
        return (*self.differences, self.whole)


AnyStack = AnyPath | Sequence[AnyPath] | Stack
"""One folder, or layers of which each lies on the next, topmost first."""


def stack_of(source: AnyStack) -> Stack:
    """The stack that ``source`` is; that of one layer where it is a single folder.

    Raises:
        ValueError: it is an empty sequence.
    """
    if isinstance(source, Stack):
        return source
    if isinstance(source, (str, bytes, os.PathLike)):
        return Stack((), os.fsencode(source))
    if not source:
        raise ValueError("a stack needs at least one layer")
    *differences, whole = map(os.fsencode, source)
    return Stack(tuple(differences), whole)


@record
class Part:
    """A folder in one layer of a stack."""

    fd: int  # open
    is_whole: bool  # the layer is the lowest: devices 0:0 and attributes are what they are
    layer: int  # which one: 0 is the topmost
    ids: Conversion | None = None  # what the tree's are

    def at(self, fd: int) -> Part:
        """Another folder of the same layer."""
        return Part(fd, self.is_whole, self.layer, self.ids)

    def status(self, status: os.stat_result) -> os.stat_result:
        """The status in the tree of what has this one, and stands for nothing else."""
        return status if self.ids is None else converted_status(self.ids, status)

    def attributes(self, found: dict[str, bytes]) -> dict[str, bytes]:
        """The attributes in the tree of what has these."""
        found = found if self.is_whole else tree_attributes(found)
        return found if self.ids is None else converted_attributes(self.ids, found)


class Union:
    """One folder of a stack: open in each layer that it is a union of.

    Attributes:
        parts: those folders, the topmost first; its metadata is that one's.
    """

    __slots__ = ("_places", "_shelved", "parts")

    def __init__(self, parts: list[Part]) -> None:
        """Take over the descriptors."""
        self.parts = parts
        self._places: dict[bytes, list[int]] | None = None  # when all names were read
        self._shelved: list[tuple[Part, tuple[int, int]]] = []

    @classmethod
    def root(cls, stack: Stack) -> Self:
        """Open the stack's layers.

        Raises:
            OSError: one of them cannot be opened; its ``filename`` is the layer's path.
        """
        union = cls([])
        try:
            for layer, path in enumerate(stack.paths):
                is_whole = layer == len(stack.differences)
                fd = open_noatime(path, None, OPEN_ANY_FOLDER)
                union.parts.append(Part(fd, is_whole, layer, stack.ids))
                if not is_whole and is_opaque(fd):
                    break
        except BaseException:
            union.close()
            raise
        return union

    @classmethod
    def beneath(cls, path: bytes, parts: Iterable[Part]) -> Self:
        """The folder at ``path`` from the root, of whose parts these have one that is its part.

        Which those are is told by ``places`` of the folders on the way.

        Raises:
            OSError: EXDEV where something is mounted on the way; otherwise as openat2(2) says.
        """
        union = cls([])
        try:
            for part in parts:
                if union.parts and is_opaque(union.parts[-1].fd):
                    break
                fd = open_beneath(part.fd, path, cross_mounts=False)
                union.parts.append(part.at(fd))
        except BaseException:
            union.close()
            raise
        return union

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""
        parts, self.parts = self.parts, []
        for part in parts:
            os.close(part.fd)

    def shelve(self) -> None:
        """Close all for now; once is enough."""
        if self.parts:
            self._shelved = [(part, identity(os.fstat(part.fd))) for part in self.parts]
        self.close()

    def reopen(self, path: bytes, inside: Self | None, root: Self) -> None:
        """Open again what was shelved: the folder at ``path`` from ``root``, which is open.

        ``inside`` is an open folder directly in it, if there is one.

        Raises:
            OSError: ESTALE when it is another one now; otherwise as openat2(2) says.
        """
        ways = {part.layer: part.fd for part in inside.parts} if inside is not None else {}
        shelved, self._shelved = self._shelved, []
        for part, wanted in shelved:
            if part.layer in ways:
                fd = open_parent(ways[part.layer], wanted)
            else:  # nothing in that layer can show the way
                fd = open_beneath(root.parts[part.layer].fd, path)
            self.parts.append(part.at(fd))

    @property
    def is_plain(self) -> bool:
        """Whether the lowest layer alone has it, so that all in it is what it is."""
        return bool(self.parts) and self.parts[0].is_whole

    def find(self, name: bytes) -> tuple[Part, os.stat_result] | None:
        """Where ``name`` is to be had, and its status in the tree; None where there is none."""
        if self._places is not None:
            for place in self._places.get(name, ())[:1]:
                part = self.parts[place]
                status = os.lstat(name, dir_fd=part.fd)
                if not part.is_whole:
                    status = tree_status(part.fd, name, status)
                return part, part.status(status)
            return None
        for part in self.parts:
            try:
                status = os.lstat(name, dir_fd=part.fd)
            except FileNotFoundError:
                continue
            if part.is_whole:
                return part, part.status(status)
            if is_whiteout(status):
                return None
            return part, part.status(tree_status(part.fd, name, status))
        return None

    def names(self) -> dict[bytes, Part]:
        """All names in the folder, and where each is to be had."""
        return {name: self.parts[places[0]] for name, places in self.places().items() if places}

    def places(self) -> dict[bytes, list[int]]:
        """All names in the folder, and in which of ``parts`` each is the union's.

        In none where it is only hidden; in several where they all have a folder of that name, of
        which one may be opaque.
        """
        if self._places is None:
            found: dict[bytes, list[int]] = {}
            folders = set()
            for place, part in enumerate(self.parts):
                for name, is_folder, is_hidden in _names_in(part):
                    if name not in found:
                        found[name] = [] if is_hidden else [place]
                        if is_folder:
                            folders.add(name)
                    elif name in folders:
                        if is_folder:
                            found[name].append(place)
                        else:
                            folders.discard(name)
            self._places = found
        return self._places

    def _candidates(self, name: bytes) -> list[Part]:
        if self._places is None:
            return self.parts
        return [self.parts[place] for place in self._places.get(name, ())]

    def enter(self, name: bytes) -> Self:
        """The folder ``name`` in this one.

        Raises:
            OSError: ENOENT where there is none, ENOTDIR or ELOOP where it is no folder; otherwise
                as open(2) says.
        """
        if self.is_plain:
            part = self.parts[0]
            return type(self)([part.at(open_noatime(name, part.fd, OPEN_FOLDER))])
        inside = type(self)([])
        candidates = self._candidates(name)
        try:
            for part in candidates:
                try:
                    fd = open_noatime(name, part.fd, OPEN_FOLDER)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno not in NO_FOLDER or not inside.parts:
                        raise
                    break
                inside.parts.append(part.at(fd))
                if part is not candidates[-1] and is_opaque(fd):
                    break
        except OSError as error:
            inside.close()
            if error.errno in NO_FOLDER and self.find(name) is None:  # a whiteout
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
            raise
        if not inside.parts:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return inside


class UnionPaths:
    """The folders of a union by their paths; those on the way to the last one stay open.

    So the way to the next is short, where that is near.

    Attributes:
        way: the names to the last one, or as far as there are folders.
    """

    def __init__(self, root: Union) -> None:
        """Those in ``root``, which stays open."""
        self._root = root
        self._unions: list[Union] = []  # some on the way are closed, where it is long
        self._open = 0
        self.way: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._go_up(0)

    def at(self, names: Sequence[bytes]) -> Union:
        """The folder at ``names`` from the root, open until the next call.

        Raises:
            OSError: as ``Union.enter``.
        """
        common = 0
        while common < min(len(self.way), len(names)) and self.way[common] == names[common]:
            common += 1
        while common and not self._unions[common - 1].parts:
            common -= 1
        self._go_up(common)
        for name in names[common:]:
            above = self._unions[-1] if self._unions else self._root
            inside = above.enter(name)
            if self._open > _MOST_OPEN:
                self._shut(self._unions)
            self.way.append(name)
            self._unions.append(inside)
            self._open += len(inside.parts)
        return self._unions[-1] if self._unions else self._root

    def _go_up(self, depth: int) -> None:
        self._shut(self._unions[depth:])
        del self._unions[depth:], self.way[depth:]

    def _shut(self, unions: list[Union]) -> None:
        for union in unions:
            self._open -= len(union.parts)
            union.close()


@contextmanager
def opened_in(root: Union, path: bytes) -> Iterator[Union]:
    """The folder at ``path`` from ``root``, open while the block runs.

    Raises:
        OSError: EXDEV where something is mounted on the way; otherwise as ``Union.enter``.
    """
    if root.is_plain:
        [part] = root.parts
        with Union([part.at(open_beneath(part.fd, path, cross_mounts=False))]) as union:
            yield union
        return
    union = root
    try:
        for name in path.split(b"/") if path else [b"."]:
            inside = union.enter(name)
            if union is not root:
                union.close()
            union = inside
        yield union
    finally:
        if union is not root:
            union.close()


def tree_status(folder: int, name: bytes, status: os.stat_result) -> os.stat_result:
    """The status in the tree of ``name`` in an open folder of a difference, and no whiteout."""
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        return status
    from reflayer.linux.xattrs import path_at
    from reflayer.walk.facts import changed_status, list_attributes

    if not is_device(list_attributes(path_at(folder, name), follow=False)):
        return status
    return changed_status(status, {0: stat.S_IFCHR | stat.S_IMODE(status.st_mode)})


def _names_in(part: Part) -> list[tuple[bytes, bool, bool]]:
    """The names in one layer's folder: whether each is a folder, and whether it only hides."""
    with os.scandir(part.fd) as scan:
        return [
            (
                encode_name(entry.name),
                is_folder := entry.is_dir(follow_symlinks=False),
                not part.is_whole
                and not is_folder
                and not entry.is_file(follow_symlinks=False)
                and not entry.is_symlink()
                and is_whiteout(entry.stat(follow_symlinks=False)),
            )
            for entry in scan
        ]
