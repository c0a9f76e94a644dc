"""Which folders of a clone hold what was touched since: found by threads, ahead of the walk.

The walk tells differences in order, so one thread does it. But of a clone that is as it was, there
is nothing to tell: here each folder is one call into C, by all workers at once, and the walk then
goes into those alone that have something for it.

Of a stack that is so for each folder that one layer has. What several layers have are few folders
near the root: they are looked at first.
"""

from __future__ import annotations

import os
import stat
from functools import partial

from reflayer.archive.compare import is_same_status, names_in
from reflayer.linux.names import native
from reflayer.walk.folders import open_beneath
from reflayer.walk.stack import Union
from reflayer.workers.pool import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_changed_names: Any = getattr(native, "changed_names", None)
_LINKED = 253  # as type of a name: it is as before, and its inode has several
_STEPS = 4  # folders that a path leads through before the one it leads to is kept open
_DEEPEST = 64  # folders down to which some are kept open: a process has few descriptors

Touched = dict[bytes, set[bytes]]
"""By the path of a folder that was looked at, the names in it that the walk has to look at."""


def touched_names(new: int, old: Union, since: int, until: int) -> Touched | None:
    """Look at the names that two open roots, a clone's and its source's, have on every level.

    A folder has no entry where nothing in it was touched, on any level; nor where it was touched
    itself or could not be read, or where something is mounted: the walk is to find that out. None
    where the part in C is absent. The cloning went on from ``since`` to ``until``, in nanoseconds.
    """
    if _changed_names is None:
        return None
    scan = _Scan(since, until)
    workers = Workers(lambda: partial(scan.look, workers))
    workers.run(scan.look_at_merged(new, old))
    return scan.touched()


class _Pair:
    """A folder of the clone and its source, both open while anything refers to this."""

    __slots__ = ("new", "old", "path")

    def __init__(self, path: bytes, new: int, old: int) -> None:
        self.path = path  # from the roots, with a slash at its end
        self.new = new
        self.old = old

    def __del__(self) -> None:
        os.close(self.new)
        os.close(self.old)

    def enter(self, path: bytes) -> _Pair:
        """The folders at ``path`` in these; EXDEV where something is mounted on the way."""
        new = open_beneath(self.new, path, cross_mounts=False)
        try:
            old = open_beneath(self.old, path, cross_mounts=False)
        except OSError:
            os.close(new)
            raise
        return _Pair(self.path + path + b"/", new, old)


class _Scan:
    def __init__(self, since: int, until: int) -> None:
        self._time = since, until
        self._names: Touched = {}
        self._links: Touched = {}
        self._unread: set[bytes] = set()

    def look_at_merged(self, new: int, old: Union) -> list[tuple[_Pair, bytes]]:
        """Look at the folders that several layers have; those that one layer has are left."""
        pairs = [_Pair(b"", os.dup(new), os.dup(part.fd)) for part in old.parts]
        left = []
        merged = [(b"", old.parts)]
        while merged:
            path, parts = merged.pop()
            if len(parts) == 1:
                left.append((pairs[parts[0].layer], path))
                continue
            try:
                with Union.beneath(path, parts) as union:
                    if len(union.parts) == 1:
                        merged.append((path, parts[:1]))
                        continue
                    same, rest = self._look_at_union(new, path, union)
            except OSError:
                self._unread.add(path)
                continue
            for name, places in same:
                merged.append((os.path.join(path, name), [parts[place] for place in places]))
            self._note(path, rest)
        return left

    def _look_at_union(
        self, new: int, path: bytes, old: Union
    ) -> tuple[list[tuple[bytes, list[int]]], list[tuple[int, bytes]]]:
        """As ``_look``, with the parts of ``old`` that each folder is in."""
        same, rest = [], []
        places = old.places()
        folder = open_beneath(new, path, cross_mounts=False)
        try:
            for name in names_in(folder):
                here = places.get(name)
                if not here:
                    rest.append((0, name))
                    continue
                now = os.lstat(name, dir_fd=folder)
                before = os.lstat(name, dir_fd=old.parts[here[0]].fd)
                since, until = self._time
                if not before.st_ctime_ns < since <= now.st_ctime_ns < until or not is_same_status(
                    now, before
                ):
                    rest.append((0, name))
                elif stat.S_ISDIR(now.st_mode):
                    same.append((name, here))
                elif now.st_nlink > 1 or before.st_nlink > 1:
                    rest.append((_LINKED, name))
        finally:
            os.close(folder)
        return same, rest

    def look(self, workers: Workers, folders: list[tuple[_Pair, bytes]]) -> None:
        """Look at ``folders`` and all in them, but for those that are given to other workers."""
        pair: _Pair | None = None
        try:
            while folders:
                half = len(folders) // 2
                if workers.pause() and half and workers.give(folders[:half]):
                    del folders[:half]
                pair, path = folders.pop()
                try:
                    if path.count(b"/") >= _STEPS and pair.path.count(b"/") < _DEEPEST:
                        pair, path = pair.enter(path), b""
                    same, rest = self._look(pair, path)
                except OSError:
                    self._unread.add(pair.path + path)
                    continue
                inside = os.path.join(path, b"")
                folders += [(pair, inside + name) for name in same]
                self._note(pair.path + path, rest)
        finally:  # a traceback would keep them open
            pair = None
            folders.clear()

    def _look(self, pair: _Pair, path: bytes) -> tuple[list[bytes], list[tuple[int, bytes]]]:
        """The folders in the one at ``path`` that are as before, and the names that are not."""
        _, same, rest, left = _changed_names(pair.new, pair.old, path or b".", *self._time, b"")
        if left is not None:  # it takes several calls, for which it has to stay open
            pair, same, rest, left = pair.enter(path), [], [], b""
        while left is not None:
            _, more, others, left = _changed_names(pair.new, pair.old, b"", *self._time, left)
            same += more
            rest += others
        return same, rest

    def _note(self, path: bytes, rest: list[tuple[int, bytes]]) -> None:
        for kind, name in rest:
            names = self._links if kind == _LINKED else self._names
            names.setdefault(path.rstrip(b"/"), set()).add(name)

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
