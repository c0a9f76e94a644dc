"""A container's layer takes the folder of the one below, which becomes a difference.

For each container Docker clones an image twice: as ``ID-init``, in which it makes a few files, and
that as the container's own. The first is rarely looked at again. So the container gets its folder,
and what is different in it from the image is kept beside.
"""

from __future__ import annotations

import io
import os

from reflayer.driver.clone_times import forget, keeping, note, older, origin
from reflayer.driver.create import building, publish, set_label
from reflayer.driver.differences import (
    add_child,
    difference_path,
    is_difference,
    is_there,
    make_difference,
    stack,
)
from reflayer.driver.home import has_tree, layer_path, naming
from reflayer.driver.trash import delete
from reflayer.driver.trees import clear_mark, set_mark
from reflayer.errors import ArchiveError, failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.home import Making
    from reflayer.walk.stack import Stack

_MOST = 1 << 18  # bytes of a difference; Docker's has some ten thousand


def take_over(home: str, id: str, parent: str, making: Making, label: str) -> bool:
    """Make the folder of layer ``parent`` that of the new layer ``id``; keep a difference of it.

    Returns:
        Whether it was done. It is not where the note of what ``parent`` was cloned from is missing,
        much is different in it, or something that an archive cannot hold.

    Raises:
        LayerError: layer ``id`` is there already.
        OperationError: a step of it failed. ``parent`` is there still, whole or a difference.
    """
    layer = layer_path(home, parent)
    found = None if is_difference(home, parent) else origin(home, parent, layer)
    if found is None or not is_there(home, found[0]):
        return False
    below, cloned = found
    first = "" if label else older(home, parent)
    with building(home, parent) as difference:
        upper = make_difference(difference, below, is_new=False)
        if not _fill(upper, layer, stack(home, below), cloned, making.ownership):
            delete(difference)
            return False
        with building(home, id) as path:
            with failing(layer, "rename"), naming(home):
                if not (is_there(home, below) and has_tree(home, parent)):
                    delete(difference)
                    return False
                add_child(home, below, parent)
                set_mark(home, parent)
                os.rename(difference, difference_path(home, parent))
                os.rename(layer, path)
                clear_mark(home, parent)
            forget(home, parent)
            if label:
                set_label(path, label)
            with keeping(note(home, path, parent, older=first), id):
                publish(path, home, id)
    return True


def _fill(upper: str, layer: str, below: Stack, cloned: float, ownership: str) -> bool:
    """Fill ``upper`` with what is different; False where that is much, or cannot all be kept."""
    from reflayer.archive import apply_stream, pack_layer

    packing = pack_layer(layer, below, cloned=cloned)
    archive = io.BytesIO()
    try:
        for chunk in packing:
            if archive.tell() + len(chunk) > _MOST:
                return False
            archive.write(chunk)
    except ArchiveError:  # a name that no archive can have
        return False
    if packing.skipped:
        return False
    archive.seek(0)
    apply_stream(upper, archive, ownership=ownership, below=lambda: below)
    return True
