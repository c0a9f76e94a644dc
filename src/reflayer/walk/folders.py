"""Open folders, to any depth, without a descriptor for each level.

A descriptor for each folder on the way would end at some hundred levels, and paths at 4,095 bytes.
So a walk keeps the innermost folders open and shelves those further up: it closes them, and comes
back by ``..`` from a folder inside. A rename meanwhile could make that another folder, outside the
tree even, so device and inode have to be those of the folder that was left.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from operator import methodcaller

from reflayer.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TypeVar

    F = TypeVar("F", bound="Folder")

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]

OPEN_ANY_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags for a folder that a user has named: a link to one is followed."""
OPEN_FOLDER = OPEN_ANY_FOLDER | os.O_NOFOLLOW
# O_NONBLOCK: should the name have become a FIFO meanwhile, open(2) must not wait for a writer.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

NO_FOLDER = frozenset({errno.ENOTDIR, errno.ELOOP})
"""What open(2) of another type than a folder, or of a link, fails with."""

LONGEST_PATH = 4095
"""Bytes that a system call takes (limits.h: PATH_MAX)."""

_NOATIME = getattr(os, "O_NOATIME", 0)
_NAME_ITSELF = getattr(os, "O_PATH", 0) | OPEN_FOLDER
_MOST_OPEN = 64


# os.fsencode, as it is for what os.listdir returns
encode_name = methodcaller("encode", sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def names_in(folder: int) -> set[bytes]:
    """The names in an open folder."""
    return set(map(encode_name, os.listdir(folder)))


def identity(status: os.stat_result) -> tuple[int, int]:
    """What tells one inode from every other: its device and its number."""
    return status.st_dev, status.st_ino


def open_noatime(name: str | bytes, dir_fd: int | None, flags: int) -> int:
    """Open ``name``, where that is allowed so that reading leaves its atime as it is.

    Raises:
        OSError: ELOOP or ENOTDIR when ``flags`` forbid the link that it is; else as open(2) says.
    """
    try:
        return os.open(name, flags | _NOATIME, dir_fd=dir_fd)
    except PermissionError:  # O_NOATIME is for the owner and for CAP_FOWNER: open(2)
        return os.open(name, flags, dir_fd=dir_fd)


def open_parent(child: int, wanted: tuple[int, int]) -> int:
    """Open the folder above the open folder ``child``.

    Raises:
        OSError: ESTALE when it is another one than ``wanted``.
    """
    fd = open_noatime("..", child, OPEN_FOLDER)
    if identity(os.fstat(fd)) != wanted:
        os.close(fd)
        raise OSError(errno.ESTALE, "the folder was moved meanwhile")
    return fd


def open_beneath(top: int, path: bytes, *, cross_mounts: bool = True) -> int:
    """Open the folder at ``path``, of any length, beneath the open folder ``top``.

    The kernel refuses a link on the way, and with ``cross_mounts`` off a mount. Reading it leaves
    its atime as it is where that is allowed.

    Raises:
        OSError: ELOOP for a link, EXDEV for a mount; otherwise as openat2(2) says.
    """
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    if not cross_mounts:
        resolve |= RESOLVE_NO_XDEV
    if len(path) <= LONGEST_PATH:  # as nearly always
        return _openat2_noatime(top, path or b".", resolve)
    above = -1
    while True:
        cut = len(path) if len(path) <= LONGEST_PATH else path.rindex(b"/", 0, LONGEST_PATH)
        try:
            fd = _openat2_noatime(top if above < 0 else above, path[:cut], resolve)
        finally:
            if above >= 0:
                os.close(above)
        if cut == len(path):
            return fd
        above, path = fd, path[cut + 1 :]


def _openat2_noatime(top: int, path: bytes, resolve: int) -> int:
    try:
        return openat2(top, path, OPEN_FOLDER | _NOATIME, resolve)
    except PermissionError:  # as in open_noatime
        return openat2(top, path, OPEN_FOLDER, resolve)


def open_shut(name: bytes, dir_fd: int | None = None) -> int:
    """Open the folder ``name`` although it lacks the permission bits, if this user owns it."""
    named = os.open(name, _NAME_ITSELF, dir_fd=dir_fd)
    itself = f"/proc/self/fd/{named}"
    try:
        mode = stat.S_IMODE(os.fstat(named).st_mode)
        os.chmod(itself, mode | 0o700)
        try:
            return os.open(itself, OPEN_ANY_FOLDER)
        finally:
            os.chmod(itself, mode)
    except OSError as error:
        error.filename = name
        raise
    finally:
        os.close(named)


class Folder:
    """One folder on the way of a walk, through one tree or through two side by side.

    Attributes:
        parent: the folder above; None for the root.
        name: its name there; empty for the root.
        fd: its descriptor; -1 while shelved.
        peer: descriptor of its counterpart in the other tree; -1 while shelved, or without one.
        status: its status when the walk came to it.
    """

    __slots__ = ("_peer_id", "fd", "name", "parent", "peer", "status")

    def __init__(
        self, parent: Self | None, name: bytes, fd: int, peer: int, status: os.stat_result
    ) -> None:
        """Take over the open descriptors."""
        self.parent = parent
        self.name = name
        self.fd = fd
        self.peer = peer
        self.status = status
        self._peer_id: tuple[int, int] | None = None

    def path(self, name: bytes = b"") -> bytes:
        """The path from the root of ``name`` in this folder, or of the folder; the root's is ""."""
        names = [name] if name else []
        folder: Folder | None = self
        while folder is not None:
            if folder.name:
                names.append(folder.name)
            folder = folder.parent
        return b"/".join(reversed(names))

    def close(self) -> None:
        """Close what is open."""
        fd, peer = self.fd, self.peer
        self.fd = self.peer = -1
        if fd >= 0:
            os.close(fd)
        if peer >= 0:
            os.close(peer)

    def shelve(self) -> None:
        """Close both descriptors for now; once is enough."""
        if self.peer >= 0:
            self._peer_id = identity(os.fstat(self.peer))
        self.close()

    def reopen(self, child: Self, root: Self) -> None:
        """Open a shelved folder again, from ``child``, an open folder directly in it."""
        self.fd = open_parent(child.fd, identity(self.status))
        self.reopen_peer(child, root)

    def reopen_peer(self, child: Folder, root: Folder) -> None:
        """Open the counterpart again, if there was one."""
        if self._peer_id is not None:
            if child.peer >= 0:
                self.peer = open_parent(child.peer, self._peer_id)
            else:  # the child has no counterpart, which could have shown the way
                self.peer = open_beneath(root.peer, self.path())


def most_open(workers: int) -> int:
    """How many folders each of ``workers`` may have open, which share the process's descriptors.

    All of them take a quarter of what it may have, as long as that is enough for four each.
    """
    return max(4, min(_MOST_OPEN, os.sysconf("SC_OPEN_MAX") // (4 * workers)))


class FolderStack(list["F"]):
    """The folders from a walk's root, which stays open, to the innermost one; all are closed."""

    def __init__(self, workers: int = 1) -> None:
        """Of one of ``workers``, which share the process's descriptors.

        Of folders with a peer each takes two.
        """
        super().__init__()
        self._most = most_open(2 * workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self:
            folder.close()

    def push(self, folder: F) -> None:
        """Go into ``folder``, an open one in the innermost."""
        self.append(folder)
        if len(self) > self._most:
            self[-self._most].shelve()

    def open_ones(self) -> list[F]:
        """The folders that may be open, the innermost last, out of what can be ten thousands."""
        return self[-self._most :]

    def reopen_parent(self) -> None:
        """Open the folder above the innermost again, if it was shelved, to leave to it.

        Raises:
            OSError: ESTALE when it is another one now.
        """
        if len(self) > 1 and self[-2].fd < 0:
            self[-2].reopen(self[-1], self[0])
