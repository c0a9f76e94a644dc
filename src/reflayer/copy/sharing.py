"""How the hands of one copy share its folders: through a socket that the idle take work from.

A piece of work is a pair of open folders, sent as descriptors (unix(7): SCM_RIGHTS), so that no
path is resolved again, and names in it: of child folders that are still to be copied, or, where
the folder is very wide, of entries still to be made.
"""

from __future__ import annotations

import errno
import marshal
import os
import socket

from reflayer.copy.board import Board
from reflayer.copy.descriptors import receive, send
from reflayer.copy.folder import Folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.split import Names

_MESSAGE = 1 << 17  # bytes of one piece of work at the most: half of a socket's default buffer
_PATH = 1 << 14  # bytes of a path in one piece: all of it, but for monsters

_END = b"end"
# sendmsg(2), unix(7): no room, or too many descriptors of this user on their way
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE, errno.ETOOMANYREFS})


class Work:
    """One piece of work that was taken.

    Attributes:
        folder: the open folder; the one who took it closes it. Its ``children`` are to be copied.
        names: entries to make in it, each with its type.
        done: descriptor to close when ``names`` are made; -1 where there are none.
    """

    __slots__ = ("done", "folder", "names")

    def __init__(self, folder: Folder, names: Names, done: int) -> None:
        self.folder = folder
        self.names = names
        self.done = done

    def close(self) -> None:
        """Say that the names are made."""
        if self.done >= 0:
            os.close(self.done)
            self.done = -1


class Sharing:
    """One hand's access to the work of all.

    Attributes:
        board: what all hands see of each other.
        give_to: the socket's end that work is put into.
        take_from: the end that work comes out of.
    """

    def __init__(self, board: Board, give_to: socket.socket, take_from: socket.socket) -> None:
        self.board = board
        self.give_to = give_to
        self.take_from = take_from

    def give(self, folder: Folder, children: list[str]) -> bool:
        """Offer child folders, which are made already, to whoever is idle.

        Returns:
            False where the socket takes no more.
        """
        return self._give(folder, (b"/".join(map(os.fsencode, children)), b""), [])

    def give_names(self, folder: Folder, names: Names, done: int) -> bool:
        """The same with entries that are to be made; ``done`` is closed when they are."""
        packed = b"/".join(os.fsencode(kind + name) for kind, name in names)
        return self._give(folder, (b"", packed), [done])

    def _give(self, folder: Folder, packed: tuple[bytes, bytes], fds: list[int]) -> bool:
        message = marshal.dumps((folder.relative()[-_PATH:], *packed))
        self.board.gave()
        try:
            send(self.give_to, message, [folder.src, folder.dst, *fds], socket.MSG_DONTWAIT)
        except OSError as error:
            self.board.gave(-1)
            if error.errno in _FULL:
                return False
            raise
        return True

    def take(self, wait: bool) -> Work | None:
        """Take a piece of work; None at the end of the copy, or at once where not to ``wait``."""
        try:
            message, fds = receive(self.take_from, _MESSAGE, 3, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        if message == _END:
            return None
        self.board.took()
        path, children, names = (os.fsdecode(part) for part in marshal.loads(message))
        folder = Folder(None, path, fds[0], fds[1])
        folder.children = children.split("/") if children else []
        made = [(name[0], name[1:]) for name in names.split("/")] if names else []
        return Work(folder, made, fds[2] if len(fds) > 2 else -1)

    def end(self) -> None:
        """Tell one helper that the copy is complete."""
        self.give_to.send(_END)
