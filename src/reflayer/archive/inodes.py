"""Inodes with several names: which of them a layer has to have, and of which inode.

Names that shared an inode in the tree before and share one now may stay as they are. All others
are written: the first name of an inode with its content, every further one as a link to that.
"""

from __future__ import annotations

from reflayer.copy.folder import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    Key = tuple[int, int]


class Inodes:
    """What is known of the inodes with several names; it grows with their number."""

    def __init__(self) -> None:
        self._first: dict[Key, tuple[bytes, Key | None]] = {}  # and which inode it was, if it stays
        self._stays: dict[Key, Key] = {}  # what an inode of the tree before is now

    def place(
        self, path: bytes, status: os.stat_result, before: os.stat_result | None, is_same: bool
    ) -> tuple[bool, bytes]:
        """Whether the name ``path`` has to be written, and the path that it is a link to, or "".

        Args:
            path: where the name is.
            status: of its inode.
            before: of the inode that had the name before.
            is_same: nothing but the names of the two differs.
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
