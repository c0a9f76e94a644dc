"""Hard links in a diff: which names of an inode a layer has to have, and as links to what.

A layer lists names, not inodes. If /a and /b were links and only /a were listed as changed, to
apply the layer would replace /a and split the two. To list every name of every such inode would be
right, but would put all of them into each layer. So a name stays out only where its inode is as
before, has no more names than before, and all of them were names of one inode then, too. Every
other name is listed: the first of its inode with the content, further ones as links to that.

In a stack, a lower layer's inode may also have names that are hidden by a layer above. Those are
names in that layer's folder, but not of the tree before.
"""

from __future__ import annotations

import os
import stat
from collections import Counter

from reflayer.walk.folders import identity, names_in
from reflayer.walk.stack import Union

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reflayer.walk.stack import Part

    Key = tuple[int, int]


class HardLinks:
    """What is known of the inodes with several names; it grows with their number."""

    def __init__(self) -> None:
        self._first: dict[Key, tuple[bytes, Key | None]] = {}  # and which inode it was, if it stays
        self._stays: dict[Key, Key] = {}  # what an inode of the tree before is now

    def place(
        self, path: bytes, status: os.stat_result, before: os.stat_result | None, hidden: int = 0
    ) -> tuple[bool, bytes]:
        """Whether the name ``path`` has to be listed, and the path that it is a link to, or "".

        ``status`` is of its inode, ``before`` of the one that had the name before where nothing but
        the names of the two differs; so many of the latter's are ``hidden``.
        """
        new = identity(status)
        old = None if before is None else identity(before)
        if new in self._first:
            first, stays_as = self._first[new]
            if old is not None and old == stays_as:
                return False, b""
            return True, first
        stays = (
            old is not None
            and before is not None
            and before.st_nlink - hidden >= status.st_nlink  # else another name will come
            and self._stays.setdefault(old, new) == new
        )
        self._first[new] = path, old if stays else None
        return not stays, b""


def hidden_names(root: Union) -> Counter[Key]:
    """How many names of each inode with several are hidden in the stack with that open root."""
    return Counter(
        identity(status)
        for status in _hidden(root)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode)
    )


def _hidden(root: Union) -> Iterator[os.stat_result]:
    """The status of each name in a layer that is none of the tree's."""
    merged: list[tuple[bytes, Sequence[Part]]] = [(b"", root.parts)]
    while merged:
        path, parts = merged.pop()
        with Union.beneath(path, parts) as union:
            for part in parts[len(union.parts) :]:  # an opaque folder lies above
                yield from _names_below(part, path)
            places = union.places()
            for place, part in enumerate(union.parts[1:], 1):
                for name in names_in(part.fd):
                    if place in places[name]:
                        continue
                    status = os.lstat(name, dir_fd=part.fd)
                    yield status
                    if stat.S_ISDIR(status.st_mode):
                        yield from _names_below(parts[place], os.path.join(path, name))
            for name, here in places.items():
                if len(here) > 1:
                    merged.append((os.path.join(path, name), [parts[place] for place in here]))


def _names_below(part: Part, path: bytes) -> Iterator[os.stat_result]:
    """The status of all on every level of the folder at ``path`` in one layer."""
    folders = [path]
    while folders:
        path = folders.pop()
        with Union.beneath(path, [part]) as union:
            for name in names_in(union.parts[0].fd):
                status = os.lstat(name, dir_fd=union.parts[0].fd)
                yield status
                if stat.S_ISDIR(status.st_mode):
                    folders.append(os.path.join(path, name))
