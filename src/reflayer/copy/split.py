"""A folder with very many names, made by several hands at once."""

from __future__ import annotations

import os
import select
from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.copy.folder import Folder
    from reflayer.copy.sharing import Sharing, Work

    Names = list[tuple[str, str]]

FILE, FOLDER, SPECIAL = "f", "d", "s"
"""What stands beside a name for its type."""

_BATCH = 256  # names given at once: 64 KiB at the most, and some milliseconds of work


class Split:
    """The part of one folder's names that is given away, and the wait until they are made.

    The end of the wait is an end of file: each batch carries the writing end of a pipe, which the
    kernel closes for whoever made the names, or died.
    """

    def __init__(self, sharing: Sharing, folder: Folder) -> None:
        self._sharing = sharing
        self._folder = folder
        self._reading, self._writing = os.pipe()

    def give(self, scan: Iterator[os.DirEntry[str]]) -> Names:
        """Give the next names of ``scan`` away; return those that are left to the caller."""
        names = [(_type(entry), entry.name) for entry in islice(scan, _BATCH)]
        if names and self._sharing.give(self._folder, names, self._writing):
            return []
        return names

    def wait(self, do: Callable[[Work], None]) -> None:
        """Wait until all that was given is made, and ``do`` what else there is meanwhile."""
        os.close(self._writing)
        try:
            poll = select.poll()
            poll.register(self._reading, select.POLLIN)
            poll.register(self._sharing.take_from, select.POLLIN)
            while True:
                ready = {fd for fd, _ in poll.poll()}
                if self._reading in ready:
                    return
                work = self._sharing.take(wait=False)
                if work is not None:
                    do(work)
        finally:
            os.close(self._reading)


def _type(entry: os.DirEntry[str]) -> str:
    if entry.is_file(follow_symlinks=False):
        return FILE
    return FOLDER if entry.is_dir(follow_symlinks=False) else SPECIAL
