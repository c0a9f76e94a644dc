"""A folder that several layers of a stack have: filled layer by layer, from the top.

A name that is there already is that of a layer above, and a whiteout hides its name from those
below. The folder is open in one layer at a time, in the lowest at last, since most of what is in it
is there; what stands in another is found by its path from that layer's root. So no folder needs
more descriptors than another, however many layers there are.

Which layers have a folder is found out when it is entered. So the names in it can be copied at
once, in any order, by several workers: it does not matter how far the filling of it has come.
"""

from __future__ import annotations

import errno
import os
import stat

from reflayer.copy.source import Union
from reflayer.errors import CopyError
from reflayer.walk.facts import Facts, FailedError, list_attributes, read_attributes
from reflayer.walk.folders import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy.folder import Folder, Job

_NO_FOLDER = frozenset({errno.ENOTDIR, errno.ELOOP})  # open(2) of what is another type


def look_below(
    job: Job, folder: Folder, layers: tuple[int, ...], skip: Callable[[str], None]
) -> None:
    """Find out which of ``layers``, those that its parent has below, have a new folder, too.

    ``skip`` is called with ``mount`` for each that is not looked into, and with ``xattr``.
    """
    from reflayer.walk.overlay import is_opaque

    found = [folder.layer]
    layer = folder.layer
    source = job.source
    try:
        names = list_attributes(folder.src)
        is_last = bool(names) and is_opaque(folder.src)
        path = folder.path()
        for layer in () if is_last else layers:
            try:
                fd, is_border = source.open(layer, path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise
                break
            try:
                if is_border:
                    skip("mount")
                    continue
                if identity(os.fstat(fd)) == job.root:
                    reason = "the destination is inside the source"
                    raise CopyError(job.path(path, layer), "copy", reason)
                found.append(layer)
                if layer < source.differences and list_attributes(fd) and is_opaque(fd):
                    break
            finally:
                os.close(fd)
        if len(found) > 1:
            layer = folder.layer
            attributes = source.tree_attributes(layer, read_attributes(folder.src, names, skip))
            folder.union = Union(source, tuple(found), Facts(folder.status, attributes))
    except (OSError, FailedError) as error:
        raise job.failure(folder, b"", "open", error, layer) from error


def go_below(job: Job, folder: Folder) -> bool:
    """Open a folder in the next layer that has it; False where there is none."""
    union = folder.union
    for layer in () if union is None else union.below(folder.layer):
        try:
            src, is_border = job.source.open(layer, folder.path())
            if not is_border:
                folder.move(src, layer)
                return True
            os.close(src)  # mounted meanwhile
        except OSError as error:
            raise job.failure(folder, b"", "open", error, layer) from error
    return False


def is_whiteout(job: Job, folder: Folder, name: bytes) -> bool:
    """Whether ``name`` in ``folder``, no file, folder or link, is a whiteout, which is noted.

    Raises:
        CopyError: there is no layer below, so that one may be missing.
    """
    if not job.source.has_whiteouts(folder.layer):
        return False
    try:
        status = os.stat(name, dir_fd=folder.src, follow_symlinks=False)
    except OSError as error:
        raise job.failure(folder, name, "stat", error) from error
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev:
        return False
    if folder.layer == job.source.differences:
        path = job.path(folder.path(name), folder.layer)
        reason = "a whiteout in the lowest layer hides nothing: is a layer missing?"
        raise CopyError(path, "copy", reason)
    if folder.union is not None:
        folder.union.hidden.add(name)
    return True


def is_shadowed(folder: Folder, name: bytes) -> bool:
    """Whether ``name``, of the layer that ``folder`` is open in, is another's above."""
    union = folder.union
    if union is None or folder.layer == union.layers[0]:
        return False
    if name in union.hidden:
        return True
    try:
        os.stat(name, dir_fd=folder.dst, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
