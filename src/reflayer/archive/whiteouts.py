"""What whiteouts and opaque folders hide is deleted; what this layer made stays, in any order.

OCI image-spec, layer.md: "Whiteouts" and "Opaque Whiteout".
"""

from __future__ import annotations

import os
import stat

from reflayer.archive.folders import join
from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.archive.folder import Folder
    from reflayer.archive.folders import Folders

WHITEOUT_PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_INODES = b".wh..wh.plnk"
"""Where AUFS kept files of several names: what links to one of them is taken, by Docker too."""

_AUFS_PREFIX = b".wh..wh."


def is_aufs_metadata(path: bytes) -> bool:
    """Whether ``path`` is what AUFS kept for itself, which Docker leaves out too."""
    return path.startswith(_AUFS_PREFIX) and path != OPAQUE


def hidden_name(whiteout: bytes) -> bytes:
    """The name that the whiteout's name hides.

    Raises:
        ArchiveError: it would hide the folder itself, or the one above.
    """
    name = whiteout[len(WHITEOUT_PREFIX) :]
    if name in (b"", b".", b".."):
        raise ArchiveError("a whiteout of a folder by way of itself")
    return name


def hide(folders: Folders, folder: Folder, name: bytes) -> None:
    """Delete ``name`` in ``folder``, if lower layers have it."""
    if _hide(folders, folder, name):
        hide_all(folders, folders.child(folder, name))


def hide_all(folders: Folders, folder: Folder) -> None:
    """Delete everything in ``folder`` that lower layers have."""
    if folder.made is None or folder.key in folders.made.opaque:
        return
    folders.made.opaque.add(folder.key)
    top, above = os.dup(folder.fd), folder.path
    todo = [b"."]
    try:
        while todo:
            path = todo.pop()
            here = folders.beneath(top, above, path)
            # Opened anew: btrfs lists what there was at the time of opening.
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here.fd)
            try:
                names = [os.fsencode(name) for name in os.listdir(fd)]
            finally:
                os.close(fd)
            todo += [join(path, name) for name in names if _hide(folders, here, name)]
    finally:
        os.close(top)


def _hide(folders: Folders, folder: Folder, name: bytes) -> bool:
    """Delete ``name`` unless this layer made it; True if the layer made only things beneath it."""
    if folder.made is None or name in folder.made:
        return False
    try:
        status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode) and folders.made.has_lower_folder(folders.made.key(status)):
        return True
    folders.remove(folder, name)
    return False
