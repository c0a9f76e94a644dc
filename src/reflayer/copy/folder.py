"""A folder on the way of a copy: its two descriptors, and how they are found again when shut."""

from __future__ import annotations

import _thread
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.job import Job

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: should the name have become a FIFO meanwhile, open(2) must not wait for a writer.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOATIME = getattr(os, "O_NOATIME", 0)


class Folder:
    """One folder of the source with its counterpart in the destination.

    Attributes:
        parent: the folder above, None for the root.
        name: its name in ``parent``; empty for the root.
        src: descriptor of the source folder; -1 while shut.
        dst: descriptor of the destination folder; -1 while shut.
        status: the source folder's status, taken before anything in it was read.
        is_border: another file system is mounted there, and its content stays out.
        children: names of the folders in it that are still to be copied.
        filling: who makes the entries in it; None where that is not to be done.
        mode: the mode to set only when all below is done, since it shuts us out; else None.
    """

    __slots__ = (
        "_dst_id", "children", "dst", "filling", "is_border", "mode", "name", "parent", "src",
        "status",
    )  # fmt: skip

    def __init__(self, parent: Folder | None, name: bytes, src: int, dst: int) -> None:
        """Take over both descriptors of an open folder; ``dst`` is -1 where only one is wanted."""
        self.parent = parent
        self.name = name
        self.src = src
        self.dst = dst
        self.status = os.fstat(src)
        self.is_border = False
        self.children: list[bytes] = []
        self.filling: Filling | None = None
        self.mode: int | None = None
        self._dst_id = (-1, -1)

    def part(self, children: list[bytes]) -> Folder:
        """The same folder for another worker, which is to copy ``children`` and closes it.

        Raises:
            OSError: there are too many descriptors.
        """
        src = os.dup(self.src)
        try:
            part = Folder(self.parent, self.name, src, os.dup(self.dst))
        except OSError:
            os.close(src)
            raise
        part.status = self.status
        part.children = children
        return part

    def relative(self, name: bytes = b"") -> bytes:
        """The path from the source's root of ``name`` in this folder, or of the folder itself."""
        names = [name] if name else []
        folder: Folder | None = self
        while folder is not None:
            if folder.name:
                names.append(folder.name)
            folder = folder.parent
        return b"/".join(reversed(names))

    def path(self, job: Job, name: bytes = b"") -> bytes:
        """The same path as the user would write it."""
        return os.path.join(job.source, self.relative(name)).rstrip(b"/") or b"/"

    def close(self) -> None:
        """Shut both descriptors, those of a shelved folder too."""
        src, dst = self.src, self.dst
        self.src = self.dst = -1
        if src >= 0:
            os.close(src)
        if dst >= 0:
            os.close(dst)

    def shelve(self) -> None:
        """Shut both descriptors of a folder that ``reopen`` can find again; once is enough."""
        if self.src >= 0:
            if self.dst >= 0:
                self._dst_id = identity(os.fstat(self.dst))
            self.close()

    def reopen(self, child: Folder) -> None:
        """Open a shelved folder again, from ``child``, an open folder directly in it.

        Raises:
            OSError: ESTALE when the folder above ``child`` is another one now.
        """
        self.src = open_above(child.src, identity(self.status))
        if child.dst >= 0:
            self.dst = open_above(child.dst, self._dst_id)


class Filling:
    """How many workers make the entries of one folder."""

    __slots__ = ("_lock", "_workers")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._workers = 1

    def begin(self) -> None:
        """One more does."""
        with self._lock:
            self._workers += 1

    def end(self) -> bool:
        """One has come to the end of the folder; whether it was the last."""
        with self._lock:
            self._workers -= 1
            return not self._workers


def open_levels(workers: int) -> int:
    """How many folders on its way one of ``workers`` keeps open, each with two descriptors at most.

    Those further up are shelved. So all workers take a quarter of the descriptors that the process
    may have, as long as that is enough for four folders each.
    """
    return max(4, min(64, os.sysconf("SC_OPEN_MAX") // (8 * workers)))


def identity(status: os.stat_result) -> tuple[int, int]:
    """What tells one inode from every other: its device and its number."""
    return status.st_dev, status.st_ino


def open_source(name: str | bytes, parent: int | None, flags: int) -> int:
    """Open ``name`` in the folder ``parent``, where allowed so that reading leaves its atime.

    Raises:
        OSError: ELOOP or ENOTDIR when the name is a symbolic link; otherwise as open(2) says.
    """
    try:
        return os.open(name, flags | _NOATIME, dir_fd=parent)
    except PermissionError:  # O_NOATIME is for the owner and for CAP_FOWNER: open(2)
        return os.open(name, flags, dir_fd=parent)


def open_above(child: int, wanted: tuple[int, int]) -> int:
    """Open the folder above the open folder ``child``.

    Raises:
        OSError: ESTALE when it is another one than ``wanted``.
    """
    fd = open_source("..", child, OPEN_FOLDER)
    if identity(os.fstat(fd)) != wanted:
        os.close(fd)
        raise OSError(errno.ESTALE, "the folder was moved during the copy")
    return fd
