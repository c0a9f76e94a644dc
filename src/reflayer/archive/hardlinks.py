"""Hard links in a diff: which names of an inode a layer has to have, and as links to what.

A layer lists names, not inodes. If /a and /b were links and only /a were listed as changed, to
apply the layer would replace /a and split the two. To list every name of every such inode would be
right, but would put all of them into each layer. So a name stays out only where its inode is as
before, has no more names than before, and all of them were names of one inode then, too. Every
other name is listed: the first of its inode with the content, further ones as links to that.
"""

from __future__ import annotations

from reflayer.walk.folders import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    Key = tuple[int, int]


class HardLinks:
    """What is known of the inodes with several names; it grows with their number."""

    def __init__(self) -> None:
        self._first: dict[Key, tuple[bytes, Key | None]] = {}  # and which inode it was, if it stays
        self._stays: dict[Key, Key] = {}  # what an inode of the tree before is now

    def place(
        self, path: bytes, status: os.stat_result, before: os.stat_result | None, is_same: bool
    ) -> tuple[bool, bytes]:
        """Whether the name ``path`` has to be listed, and the path that it is a link to, or "".

        ``status`` is of its inode, ``before`` of the one that had the name before; ``is_same``
        where nothing but the names of the two differs.
        """
        new = identity(status)
        old = identity(before) if before is not None and is_same else None
        if new in self._first:
            first, stays_as = self._first[new]
            if old is not None and old == stays_as:
                return False, b""
            return True, first
        stays = (
            old is not None
            and before is not None
            and before.st_nlink >= status.st_nlink  # else another name will come
            and self._stays.setdefault(old, new) == new
        )
        self._first[new] = path, old if stays else None
        return not stays, b""
