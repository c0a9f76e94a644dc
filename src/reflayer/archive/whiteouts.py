"""Whiteouts when a layer is applied: what they hide is deleted (OCI image-spec, layer.md).

``.wh.NAME`` hides NAME, and ``.wh..wh..opq`` all that is in its folder, but of the lower layers
alone. To delete when the whiteout is met would also delete what this layer made before it; to wait
for the end of the archive would delete what came after it. So the paths that this layer makes are
kept (``UpperPaths``), and a whiteout deletes all but those, wherever in the archive it stands. In a
difference lower layers have only what was copied up: the rest is hidden by a whiteout there, too.
"""

from __future__ import annotations

import os

from reflayer.archive.tar_header import join_path
from reflayer.errors import ArchiveError
from reflayer.walk.folders import OPEN_ANY_FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.archive.folders import Folders
    from reflayer.archive.layer_metadata import LayerFolder

WHITEOUT_PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS_INODES = b".wh..wh.plnk"
"""Where AUFS kept files of several names: what links to one of them is taken, by Docker too."""

_AUFS_PREFIX = b".wh..wh."


def is_aufs_metadata(path: bytes) -> bool:
    """Whether ``path`` is what AUFS kept for itself, which Docker leaves out too."""
    return path.startswith(_AUFS_PREFIX) and path != OPAQUE


def apply_whiteout(folders: Folders, above: bytes, whiteout: bytes) -> None:
    """Delete of lower layers what the name ``whiteout`` in the folder at ``above`` hides."""
    name = b"" if whiteout == OPAQUE else whiteout[len(WHITEOUT_PREFIX) :]
    if whiteout != OPAQUE and name in (b"", b".", b".."):
        raise ArchiveError("a whiteout of a folder by way of itself")
    folder = folders.existing(above)
    if folder is None:
        return
    if not name:
        _hide_all(folders, folder)
    elif folders.hide(folder, name):
        _hide_all(folders, folders.child(folder, name))
    else:
        folders.hide_lower(folder, name)


def _hide_all(folders: Folders, folder: LayerFolder) -> None:
    """Delete everything in ``folder`` that lower layers have."""
    if not folders.hide_all(folder):
        return
    top, above = os.dup(folder.fd), folder.path
    todo = [b"."]
    try:
        while todo:
            path = todo.pop()
            here = folders.beneath(top, above, path)
            # Opened anew: btrfs lists what there was at the time of opening.
            fd = os.open(".", OPEN_ANY_FOLDER, dir_fd=here.fd)
            try:
                names = [os.fsencode(name) for name in os.listdir(fd)]
            finally:
                os.close(fd)
            todo += [join_path(path, name) for name in names if folders.hide(here, name)]
    finally:
        os.close(top)
