"""How the hands of one copy share its folders: through a socket that the idle take work from.

A piece of work is a pair of open folders, sent as descriptors (unix(7): SCM_RIGHTS), so that no
path is resolved again: either a whole folder to copy, or some names of a folder that is very wide.
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
    from collections.abc import Callable

_MESSAGE = 1 << 17  # bytes of one piece of work at the most: half of a socket's default buffer
_PATH = 1 << 14  # bytes of a path in one piece: all of it, but for monsters

_END = b"end"
# sendmsg(2), unix(7): no room, or too many descriptors of this user on their way
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.EMSGSIZE, errno.ETOOMANYREFS})


class Work:
    """One piece of work that was taken.

    Attributes:
        folder: the open folder; the one who took it closes it.
        names: those of its entries to copy, each with its type; None for the whole folder.
        done: descriptor to close when ``names`` are made; -1 otherwise.
    """

    __slots__ = ("done", "folder", "names")

    def __init__(self, folder: Folder, names: list[tuple[str, str]] | None, done: int) -> None:
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

    def give(
        self, folder: Folder, names: list[tuple[str, str]] | None = None, done: int = -1
    ) -> bool:
        """Offer work to whoever is idle; False where the socket takes no more.

        Both descriptors of ``folder`` stay open here.
        """
        path = folder.relative()[-_PATH:]
        packed = names and b"/".join(os.fsencode(kind + name) for kind, name in names)
        message = marshal.dumps((path, folder.is_border, packed))
        fds = [folder.src, folder.dst] if done < 0 else [folder.src, folder.dst, done]
        self.board.gave()
        try:
            send(self.give_to, message, fds, socket.MSG_DONTWAIT)
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
        path, is_border, packed = marshal.loads(message)
        names = packed and [(n[0], n[1:]) for n in os.fsdecode(packed).split("/")]
        folder = Folder(None, os.fsdecode(path), fds[0], fds[1])
        folder.is_border = is_border
        return Work(folder, names, fds[2] if len(fds) > 2 else -1)

    def end(self) -> None:
        """Tell one helper that the copy is complete."""
        self.give_to.send(_END)

    def idle_takes_one(self, stack: list[Folder], enter: Callable[[Folder, str], Folder]) -> None:
        """Give the outermost folder that is still to be copied, which is likely the largest.

        The last one is kept: there would be nothing left to do here.
        """
        open_ones = [folder for folder in stack if folder.children and folder.src >= 0]
        if not open_ones or (len(open_ones) == 1 and len(open_ones[0].children) == 1):
            return
        parent = open_ones[0]
        name = parent.children.pop()
        child = enter(parent, name)
        try:
            if not self.give(child):
                parent.children.append(name)
        finally:
            child.close()
