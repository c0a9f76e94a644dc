"""A new layer: claimed and made in ``tmp/``, then published by one rename, or gone.

It is whole, empty or a clone (``clone``), or a difference, to be filled by an archive of its layer.
An id is taken if there is either, so every name is given and taken away under one lock, ``naming``.

What is needed to make one is imported then: a removal does not wait for it.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from reflayer.driver.clone import clone, limit, make_folder, no_snapshot
from reflayer.driver.clone_times import clone_details, keeping, note
from reflayer.driver.differences import (
    add_child,
    difference_path,
    is_difference,
    is_there,
    lower_in,
    make_difference,
    set_filled,
    settle_root,
    upper_in,
)
from reflayer.driver.home import (
    BUILDS,
    DIFFERENCES,
    LAYERS,
    has_labels,
    layer_path,
    naming,
    opened,
    taken,
    write_out,
)
from reflayer.driver.maps import note_map
from reflayer.driver.spares import key
from reflayer.driver.trash import delete
from reflayer.driver.write_back import writing_back
from reflayer.errors import LayerError, OperationError, failing
from reflayer.workers.lock import claim_new

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.copy import CopyReport
    from reflayer.driver.home import Making
    from reflayer.progress import Progress
    from reflayer.walk.id_map import IdMap


@contextmanager
def new_layer(
    home: str,
    id: str,
    parent: str | None,
    making: Making,
    *,
    size: int = 0,
    label: str = "",
    progress: Progress | None = None,
    durable: bool = False,
) -> Iterator[tuple[str, CopyReport | None]]:
    """Make a clone of ``parent``, or an empty folder; publish it as ``id`` after the block.

    It may take ``size`` bytes, or with 0 any number. ``label`` is the SELinux label of its root. If
    it is to be ``durable``, it is written out to disk before it is published.

    Yields:
        The path, and the report if it is a clone.

    Raises:
        LayerError: there is a layer ``id`` already, or ``parent`` was removed.
        CopyError, OperationError: a step failed. Nothing is left.
    """
    with building(home, id) as path, opened(f"{home}/{LAYERS}", follow=True) as folder:
        noted = report = None
        folders: list[int] = []
        if parent is None:
            _make_empty(path, making)
            limit(path, size, home)
        else:
            report = clone(
                home, parent, path, making, size=size, progress=progress, folders=folders
            )
        if label:
            set_label(path, label)
        # The inodes of a snapshot tell themselves that they are the same.
        if parent is not None and report is not None and report.method != "snapshot":
            is_plain = not (size or durable)
            details = clone_details(key(making), folders) if is_plain else ""
            noted = note(home, path, parent, details)
        with keeping(noted, id):
            yield path, report
            publish(path, home, id, folder if durable else None, making.id_map)


@contextmanager
def new_difference(
    home: str,
    id: str,
    parent: str | None,
    making: Making,
    *,
    label: str = "",
    is_new: bool = False,
    durable: bool = False,
) -> Iterator[str]:
    """Make an empty difference on ``parent``; publish it as ``id`` after the block, which fills it.

    Or it stays ``is_new``, for others to fill. Its root has the metadata of the parent's, unless
    the block sets them. ``parent`` has to be there when it is published; what is new may be without
    one. The rest is as for ``new_layer``.
    """
    differences = f"{home}/{DIFFERENCES}"
    with building(home, id) as path, opened(differences, follow=True) as folder:
        upper = make_difference(path, parent, is_new=is_new)
        if label:
            set_label(upper, label)
        if is_new and parent is not None:
            settle_root(home, parent, upper, making)
        yield upper
        if parent is not None:
            settle_root(home, parent, upper, making)
        publish_difference(path, home, id, folder if durable else None)


@contextmanager
def changing_layer(home: str, id: str) -> Iterator[tuple[str, Callable[[int], None]]]:
    """Let the block fill layer ``id``, which then appears anew, written out to disk.

    It goes back to where layers are made meanwhile: so a crash or failure amid that leaves none, as
    it leaves none of those that are being made.

    Yields:
        The path of the layer's own folder meanwhile, and what ``writing_back`` yields.
    """
    of_difference = is_difference(home, id)
    layer = difference_path(home, id) if of_difference else layer_path(home, id)
    with building(home, id) as path, opened(os.path.dirname(layer), follow=True) as folder:
        with failing(layer, "rename"), naming(home):
            try:
                os.rename(layer, path)
            except FileNotFoundError as error:
                raise LayerError(f"there is no layer {id}") from error
        own = upper_in(path) if of_difference else path
        with writing_back(own, home) as come_to:
            yield own, come_to
        if of_difference:
            set_filled(path)
            publish_difference(path, home, id, folder)
        else:
            publish(path, home, id, folder)


@contextmanager
def building(home: str, id: str) -> Iterator[str]:
    """A path in ``tmp/`` for the block to make ``id`` at, and to move away from.

    If the block raises, what is there is deleted. After the death of this process it is left to
    ``recover``.
    """
    claim = claim_new(f"{home}/{BUILDS}", id)
    try:
        yield claim.path
    except BaseException as error:
        try:
            delete(claim.path)
        except OperationError as failed:
            error.add_note(f"it was left for the next start to clear: {failed}")
        raise
    finally:
        claim.release()


def publish(
    path: str, home: str, id: str, folder: int | None = None, id_map: IdMap | None = None
) -> None:
    """Let the complete folder ``path`` appear as the whole layer ``id``, which must not be there.

    Both are written out to disk if ``folder`` is given: ``dir/``, open since before ``path`` was
    made.

    Raises:
        LayerError: there is a layer of that id already.
        OperationError: the rename failed, or something could not be written.
    """
    layer = layer_path(home, id)
    if folder is not None:
        write_out(folder, path)
    with failing(layer, "rename"), naming(home):
        if os.path.lexists(layer) or is_difference(home, id):
            raise taken(id)
        note_map(home, id, id_map)
        os.rename(path, layer)
    if folder is not None:
        with failing(layer, "fsync"):
            os.fsync(folder)


def publish_difference(path: str, home: str, id: str, folder: int | None = None) -> None:
    """Let the complete difference ``path`` appear as layer ``id``; as ``publish``, otherwise.

    Raises:
        LayerError: or the layer that it lies on is not there.
    """
    parent = lower_in(path)
    if folder is not None:
        if parent is not None:
            add_child(home, parent, id)
        write_out(folder, path)
    layer = difference_path(home, id)
    with failing(layer, "rename"), naming(home):
        if is_there(home, id):
            raise taken(id)
        if parent is not None:
            if not is_there(home, parent):
                raise LayerError(f"there is no layer {parent}, which {id} lies on")
            add_child(home, parent, id)  # that of one that was so called may just have gone
        os.rename(path, layer)
    if folder is not None:
        with failing(layer, "fsync"):
            os.fsync(folder)


def _make_empty(path: str, making: Making) -> None:
    with failing(path, "mkdir"):
        if not make_folder(path) and making.method == "snapshot":
            raise no_snapshot(path, "there are no btrfs subvolumes here")
        if making.owner is not None:
            os.chown(path, *making.owner)
        os.chmod(path, 0o755)


def set_label(path: str, label: str) -> None:
    """Label the folder ``path`` where the kernel has SELinux enabled and the file system labels.

    What a container may do with its files is told by their labels (selinux(8)); what is made in the
    folder later gets its label from it.
    """
    if not has_labels():
        return
    with failing(path, "label"):
        try:
            os.setxattr(path, "security.selinux", os.fsencode(label) + b"\0", follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise


def copy_label(source: str, path: str) -> None:
    """Label the folder ``path`` as ``source`` is, of which it is the tree."""
    if has_labels():
        with failing(path, "label"):
            try:
                label = os.getxattr(source, "security.selinux")
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    raise
            else:
                os.setxattr(path, "security.selinux", label)
