"""A folder that several layers of a stack have: filled layer by layer, from the top.

A name that is there already is that of a layer above, and a whiteout hides its name from those
below. Where the layers are ordinary the part in C makes all at once what it can. Others are opened
one at a time, the lowest at last, since most of what is in the folder is there; what stands in
another is found by its path from that layer's root. So no folder needs more descriptors than
another, however many layers there are.

Which layers have a child folder is known when the last of them was read. So only what the last one
alone has is copied before the folder is filled, by several workers perhaps; the rest waits.
"""

from __future__ import annotations

import os

from reflayer.copy.folder import DONE, FOLDER, JOINED, MADE
from reflayer.copy.source import Merged
from reflayer.errors import CopyError
from reflayer.linux.xattrs import path_at
from reflayer.walk.facts import Facts, FailedError, list_attributes, read_attributes
from reflayer.walk.folders import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.copy.folder import Folder, Job, Names


def merge(job: Job, folder: Folder, layers: list[int], skip: Callable[[str], None]) -> None:
    """Let a new folder be filled from each of ``layers``, of which it is open in the first.

    ``skip`` is called with ``xattr`` for each attribute of the system that cannot be read.
    """
    try:
        names = list_attributes(folder.src)
        if _is_opaque(folder.src, names):
            return
        names = job.source.tree_names(folder.layer, names)
        found = read_attributes(folder.src, names, skip)
        attributes = job.source.tree_attributes(folder.layer, found)
        facts = Facts(job.source.owned(folder.status), attributes)
    except (OSError, FailedError) as error:
        raise job.failure(folder, b"", "open", error) from error
    folder.merged = Merged(job.source, layers, facts)


def go_below(job: Job, folder: Folder, skip: Callable[[str], None]) -> bool:
    """Open a folder in the next layer that it is filled from; False where there is none.

    ``skip`` is called with ``mount`` for what is mounted there and not looked into.
    """
    merged = folder.merged
    while merged is not None and folder.layer != merged.layers[-1]:
        layer = merged.layers[merged.layers.index(folder.layer) + 1]
        try:
            src, is_border = job.source.open(layer, folder.path())
            folder.move(src, layer)
            if is_border:
                skip("mount")
                continue
            if layer != merged.layers[-1] and _is_opaque(src, list_attributes(src)):
                merged.end_with(layer)
        except (OSError, FailedError) as error:
            raise job.failure(folder, b"", "open", error, layer) from error
        if identity(folder.status) == job.root:
            reason = "the destination is inside the source"
            raise CopyError(job.path(folder.path(), layer), "copy", reason)
        if merged.has_others:  # they are few in general
            merged.above = set(os.listdir(path_at(folder.dst, b".")))
        return True
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
    from reflayer.walk import overlay  # which most copies do not need

    if not overlay.is_whiteout(status):
        return False
    if folder.layer == job.source.differences:
        path = job.path(folder.path(name), folder.layer)
        reason = "a whiteout in the lowest layer hides nothing: is a layer missing?"
        raise CopyError(path, "copy", reason)
    if folder.merged is not None:
        folder.merged.hidden.add(name)
    return True


def note_made(merged: Merged, layer: int, names: Names) -> Names:
    """Note what the part in C tells of a layer, and return what it has left to do there."""
    left = []
    for kind, name in names:
        if kind == JOINED:
            merged.found[name].append(layer)
        elif kind == MADE or (kind == FOLDER and layer != merged.layers[-1]):
            merged.found[name] = [layer]
            merged.waiting.append(name)
        elif layer != merged.layers[-1]:
            merged.hidden.add(name)
        if kind not in (JOINED, MADE, DONE):
            left.append((kind, name))
    return left


def shown(merged: Merged, layer: int, names: Names) -> Names:
    """Those of ``names``, of one of a folder's layers, that are not another's above.

    Where both are folders they are one, and that is noted.
    """
    found, above, hidden = merged.found, merged.above, merged.hidden
    left = []
    for kind, name in names:
        if name in hidden:
            continue
        layers = found.get(name)
        if layers is None:
            if name not in above:
                left.append((kind, name))
        elif kind == FOLDER:
            layers.append(layer)
        else:
            hidden.add(name)  # a folder further below is none of the one above
    return left


def _is_opaque(folder: int, attributes: list[str]) -> bool:
    for name in attributes:
        if name.endswith(".overlay.opaque"):
            from reflayer.walk.overlay import is_opaque

            return is_opaque(folder)
    return False
