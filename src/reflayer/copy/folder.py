"""What the workers of one copy share: its settings, and the folders on their way."""

from __future__ import annotations

import _thread
import errno
import os
import stat

from reflayer.errors import CopyError
from reflayer.walk import folders
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import identity
from reflayer.walk.metadata import NewInode
from reflayer.walk.mounts import is_mounted, mounts_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from reflayer.copy.source import Merged, Source

    Names = list[tuple[int, bytes]]

UNKNOWN, SPECIAL, FOLDER, FILE, LINK = 0, 2, 4, 8, 10
"""The types that a folder's listing tells (getdents64(2): d_type); SPECIAL is any other."""
JOINED, MADE, DONE = 251, 254, 255
"""What the part in C has done: a folder was one with another above, or made; or nothing is left."""
_TYPES = {stat.S_IFDIR: FOLDER, stat.S_IFREG: FILE, stat.S_IFLNK: LINK}


class Job:
    """One copy's settings.

    Attributes:
        source: the folder that is copied, or the stack.
        method: the method for content, or ``auto``.
        ownership: what becomes of what only a privileged user may keep.
        cross_mounts: whether mount points inside the source are copied through.
        mounts: the mount points inside each layer of the source, as paths from its root.
        mount_names: the last names of those: what is called otherwise is no mount point.
        leave: ``mount_names`` for the part in C.
        links: name of the folder in the destination's root where inodes with several names wait.
        root: identity of the destination's root, which must not be met inside the source.
        new: what inodes have that are made in the destination.
        folder_mode: the mode that folders have until they get their own.
        ids: what the owners are to be, for the part in C.
        folders: gets ``folder_key`` of each folder below the root and the inode of its copy.
    """

    __slots__ = (
        "cross_mounts", "folder_mode", "folders", "ids", "leave", "links", "method", "mount_names",
        "mounts", "new", "ownership", "root", "source",
    )  # fmt: skip

    def __init__(
        self, source: Source, dst: int, method: str, ownership: str, cross_mounts: bool
    ) -> None:
        """Look at the source, and at the destination's root, which is open as ``dst``."""
        self.source = source
        self.method = method
        self.ownership = ownership
        self.cross_mounts = cross_mounts
        self.mounts = mounts_below(*source.roots)
        self.mount_names = frozenset(os.path.basename(p) for some in self.mounts for p in some)
        self.leave = between_zeros(self.mount_names)
        self.links = f".reflayer-links-{os.urandom(8).hex()}"
        self.root = identity(os.fstat(dst))
        self.new = NewInode(dst)
        self.folder_mode = 0o755 & ~self.new.umask  # what most folders have
        self.ids = (b"", b"") if source.ids is None else source.ids.packed()
        self.folders: list[int] | None = None

    def path(self, below: bytes, layer: int = 0) -> bytes:
        """The path as the user would write it of ``below``, which is from a layer's root."""
        return os.path.join(self.source.paths[layer], below).rstrip(b"/") or b"/"

    def failure(
        self,
        folder: Folder,
        name: bytes,
        operation: str,
        error: OSError | FailedError,
        layer: int | None = None,
    ) -> CopyError:
        """The error that names ``name`` of ``folder``, or the folder, as the user knows it.

        It is the one in ``layer``, or in the layer that the folder is open in.
        """
        path = self.path(folder.path(name), folder.layer if layer is None else layer)
        if operation in ("open", "stat") and isinstance(error, OSError):
            reason = _MEANWHILE.get(error.errno or 0)
            if reason is not None:
                return CopyError(path, operation, reason, error.errno)
        return copy_error(error, path, operation)

    def is_mount_point(self, folder: Folder, name: bytes) -> bool:
        """Whether something is mounted on ``name`` in ``folder``.

        For names that mount points have, and folders whose st_dev differs from their parent's: on
        btrfs a subvolume has its own, too.
        """
        told = is_mounted(folder.src, name)
        return folder.path(name) in self.mounts[folder.layer] if told is None else told


def folder_key(layer: int, inode: int) -> int:
    """What tells a folder of a stack: the topmost layer that it is in, and its inode there."""
    return layer << 56 | inode


def kind_of(mode: int) -> int:
    """The type of what has this ``st_mode``."""
    return _TYPES.get(stat.S_IFMT(mode), SPECIAL)


def between_zeros(names: Collection[bytes]) -> bytes:
    """Names as the part in C takes them."""
    return b"\0%b\0" % b"\0".join(names) if names else b""


def copy_error(error: OSError | FailedError, path: bytes, operation: str) -> CopyError:
    """The error that names ``path``; ``operation`` is what failed where ``error`` does not tell."""
    if isinstance(error, FailedError):
        operation, error = error.operation, error.cause
    return CopyError.from_os_error(error, path, operation)


CHANGED = OSError(errno.ESTALE, "it became another type of file during the copy")
"""What a name met as one type and found as another fails with."""

_MEANWHILE = {
    errno.ENOENT: "it vanished during the copy",
    # open(2): a link, no folder, a socket, where the folder's listing told otherwise
    **dict.fromkeys((errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.ENXIO), CHANGED.strerror),
}


class Folder(folders.Folder):
    """One folder of the source with its counterpart in the destination.

    Attributes:
        src: descriptor of the source folder; -1 while shelved. ``status`` is that one's.
        dst: descriptor of the destination folder; -1 while shelved.
        layer: the layer of the source that it is open in, 0 the topmost.
        merged: what is known of it if several layers have it; else None.
        is_border: another file system is mounted there, and its content stays out.
        children: names of the folders in it that are still to be copied.
        filling: who makes the entries in it; None where that is not to be done.
        mode: the mode to set only when all below is done, since it takes the way back; else None.
    """

    __slots__ = ("children", "filling", "is_border", "layer", "merged", "mode")

    # The same slots by the names that a copy has for them, which costs no call.
    src: int = folders.Folder.fd  # type: ignore[misc]
    dst: int = folders.Folder.peer  # type: ignore[misc]

    def __init__(
        self, parent: Folder | None, name: bytes, src: int, dst: int, layer: int = 0
    ) -> None:
        """Take over both descriptors."""
        super().__init__(parent, name, src, dst, os.fstat(src))
        self.layer = layer
        self.merged: Merged | None = None
        self.is_border = False
        self.children: list[bytes] = []
        self.filling: Filling | None = None
        self.mode: int | None = None

    def part(self, children: list[bytes]) -> Folder:
        """This folder with descriptors of its own, for a worker that copies ``children``."""
        src = os.dup(self.src)
        try:
            part = Folder(self.parent, self.name, src, os.dup(self.dst), self.layer)
        except OSError:
            os.close(src)
            raise
        part.status = self.status
        part.merged = self.merged
        part.children = children
        return part

    def final_mode(self) -> int:
        """The permission bits that it has in the tree."""
        return self.status.st_mode & 0o7777 if self.merged is None else self.merged.mode

    def add(self, children: list[bytes]) -> None:
        """Note folders that have been made in it, as its layer has them."""
        merged, layer = self.merged, self.layer
        if merged is None or layer == merged.layers[-1]:
            self.children += children
        else:
            new = [name for name in children if name not in merged.found]
            merged.found.update((name, [layer]) for name in new)
            merged.waiting += new

    def move(self, src: int, layer: int) -> None:
        """Be open in another layer, as ``src``, which is taken over."""
        os.close(self.src)
        self.fd, self.layer = src, layer
        self.status = os.fstat(src)

    def reopen(self, child: Folder, root: Folder) -> None:
        """Open a shelved folder again, from ``child``, an open folder directly in it."""
        if self.merged is None or child.layer == self.layer:
            super().reopen(child, root)
        else:
            self.fd = self.merged.source.open_again(self.layer, self.path(), self.status)
            self.reopen_peer(child, root)


class Filling:
    """How many workers make the entries of one folder, as one layer has them.

    Each new entry changes the folder's times. So the worker that ends last sets its metadata, and
    only then: no worker knows by itself that it is the last, since others join while it reads.

    Attributes:
        leave: the names that are not for the part in C, each between two zeros; None where nothing
            is for it.
        left: names that the part in C has read already; None where that were all.
    """

    __slots__ = ("_lock", "_workers", "leave", "left")

    def __init__(self) -> None:
        self.leave: bytes | None = None
        self.left: bytes | None = b""
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
