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

BATCH = 64
"""Names read, and given, at once: some milliseconds of work."""


def read_names(scan: Iterator[os.DirEntry[str]]) -> Names:
    """The next names of ``scan``, each with its type; fewer than ``BATCH`` at its end.

    Raises:
        OSError: as getdents(2) says.
    """
    return [
        (FILE if entry.is_file(follow_symlinks=False) else _other_type(entry), entry.name)
        for entry in islice(scan, BATCH)
    ]


def _other_type(entry: os.DirEntry[str]) -> str:
    return FOLDER if entry.is_dir(follow_symlinks=False) else SPECIAL


class Split:
    """The part of one folder's names that is given away, and the wait until they are made.

    The end of the wait is an end of file: each batch carries the writing end of a pipe, which the
    kernel closes for whoever made the names, or died.
    """

    def __init__(self, sharing: Sharing, folder: Folder) -> None:
        self._sharing = sharing
        self._folder = folder
        self._reading, self._writing = os.pipe()

    def give(self, names: Names) -> bool:
        """Give ``names`` away; False where nobody takes them."""
        return self._sharing.give_names(self._folder, names, self._writing)

    def wait(self, do: Callable[[Work], None]) -> None:
        """Wait until all that was given is made, and ``do`` what else there is meanwhile."""
        os.close(self._writing)
        self._writing = -1
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

    def close(self) -> None:
        """Shut the pipe; without ``wait`` before, nobody learns when the names are made."""
        os.close(self._reading)
        if self._writing >= 0:
            os.close(self._writing)
