"""Which folders of a clone hold what was touched since: found by threads, ahead of the walk.

The walk tells differences in order, so one thread does it. But of a clone that is as it was, there
is nothing to tell: here each folder is one call into C, by all workers at once, and the walk then
goes into those alone that have something for it.

What a clone has since its making it has from the layer that shows it, and nobody put it there. So
of a stack it is not found out which layer that is: each name has to be as in one of those that have
a folder there, and which those are is known from the call before.
"""

from __future__ import annotations

import os
from array import array
from contextlib import suppress
from functools import partial

from reflayer.linux.names import native
from reflayer.walk.folders import open_beneath
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from reflayer.walk.stack import Union

CHANGED_NAMES: Any = getattr(native, "changed_names", None)
"""The part in C that looks at the names of a folder; None where it is absent."""
LINKED = 253
"""As type of a name: it is as before, and its inode has several."""
_STEPS = 4  # folders that a path leads through before the one it leads to is kept open
_DEEPEST = 256  # levels, times bytes of descriptors, down to which folders are kept open

Touched = dict[bytes, set[bytes]]
"""By the path of a folder that was looked at, the names in it that the walk has to look at."""


def touched_names(new: int, old: Union, since: int, until: int) -> Touched | None:
    """Look at the names that two open roots, a clone's and its source's, have on every level.

    A folder has no entry where nothing in it was touched, on any level; nor where it was touched
    itself or could not be read, or where something is mounted: the walk is to find that out. None
    where the part in C is absent. The cloning went on from ``since`` to ``until``, in nanoseconds.
    """
    if CHANGED_NAMES is None:
        return None
    scan = _Scan(since, until)
    workers = Workers(lambda: partial(scan.look, workers))
    root = Place(b"", os.dup(new), [os.dup(part.fd) for part in reversed(old.parts)])
    workers.run([(root, b"", root.layers)])
    return scan.touched()


class Place:
    """A folder of the clone, and of the layers that have it, open while anything refers to this."""

    __slots__ = ("layers", "new", "path")

    def __init__(self, path: bytes, new: int, layers: list[int]) -> None:
        self.path = path  # from the roots, with a slash at its end
        self.new = new
        self.layers = array("i", layers).tobytes()  # the lowest, which has most, first

    def __del__(self) -> None:
        for fd in (self.new, *array("i", self.layers)):
            os.close(fd)

    def enter(self, path: bytes, layers: bytes) -> Place:
        """The folders at ``path`` in these; EXDEV where something is mounted on the way."""
        new = open_beneath(self.new, path, cross_mounts=False)
        opened = []
        for layer in array("i", layers):
            with suppress(OSError):  # ENOENT, ENOTDIR
                opened.append(open_beneath(layer, path, cross_mounts=False))
        return Place(self.path + path + b"/", new, opened)


_Folder = tuple[Place, bytes, bytes]
"""A folder to look at: its path from there, and which of the layers there may have it."""


class _Scan:
    def __init__(self, since: int, until: int) -> None:
        self._time = since, until
        self._names: Touched = {}
        self._links: Touched = {}
        self._unread: set[bytes] = set()

    def look(self, workers: Workers, folders: list[_Folder]) -> None:
        """Look at ``folders`` and all in them, but for those that are given to other workers."""
        place: Place | None = None
        try:
            while folders:
                half = len(folders) // 2
                if workers.pause() and half and workers.give(folders[:half]):
                    del folders[:half]
                place, path, layers = folders.pop()
                try:
                    is_far = path.count(b"/") >= _STEPS
                    if is_far and place.path.count(b"/") * len(layers) < _DEEPEST:
                        place = place.enter(path, layers)
                        path, layers = b"", place.layers
                    layers, same, rest = self._look(place, path, layers)
                except OSError:
                    self._unread.add(place.path + path)
                    continue
                inside = os.path.join(path, b"")
                folders += [(place, inside + name, layers) for name in same]
                for kind, name in rest:
                    names = self._links if kind == LINKED else self._names
                    names.setdefault((place.path + path).rstrip(b"/"), set()).add(name)
        finally:  # a traceback would keep them open
            place = None
            folders.clear()

    def _look(
        self, place: Place, path: bytes, layers: bytes
    ) -> tuple[bytes, list[bytes], list[tuple[int, bytes]]]:
        """The layers that have the folder, and in it the folders as before, and what is not."""
        (layers, *_), same, rest, left = CHANGED_NAMES(
            place.new, layers, path or b".", *self._time, b""
        )
        if left is not None:  # it takes several calls, for which it has to stay open
            place, same, rest, left = place.enter(path, layers), [], [], b""
        while left is not None:
            _, more, others, left = CHANGED_NAMES(place.new, place.layers, b"", *self._time, left)
            same += more
            rest += others
        return layers, same, rest

    def touched(self) -> Touched | None:
        """What was found, when all workers are done."""
        if b"" in self._unread:
            return None
        if self._names or self._unread:
            # A folder that was moved leaves no trace on the inodes in it, and one of them may have
            # another name in a folder that stayed: a layer needs both.
            for path, names in self._links.items():
                self._names.setdefault(path, set()).update(names)
        for path in [*self._names, *self._unread]:
            while path:
                path, _, name = path.rpartition(b"/")
                names = self._names.setdefault(path, set())
                if name in names:
                    break
                names.add(name)
        self._names.setdefault(b"", set())
        return self._names
