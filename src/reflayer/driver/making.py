"""A new layer: made where layers are built, filled, and published when it is whole."""

from __future__ import annotations

import os
from contextlib import contextmanager

from reflayer.driver.builds import building, publish
from reflayer.driver.clone import clone_layer, empty_layer
from reflayer.driver.cloned import keeping, note
from reflayer.driver.durable import open_folder, write_name, write_out
from reflayer.driver.home import BUILDS, LAYERS
from reflayer.driver.label import set_label

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.archive import IdMap
    from reflayer.copy import CopyReport
    from reflayer.progress import Progress


class Making:
    """How one driver makes layers; the attributes are ``Driver``'s arguments."""

    __slots__ = ("home", "id_map", "method", "ownership", "size", "workers")

    def __init__(
        self,
        home: str,
        method: str,
        ownership: str,
        workers: int | None,
        id_map: IdMap | None,
        size: int,
    ) -> None:
        self.home = home
        self.method = method
        self.ownership = ownership
        self.workers = workers
        self.id_map = id_map
        self.size = size


@contextmanager
def making(
    how: Making,
    id: str,
    parent: str | None,
    progress: Progress | None,
    *,
    durable: bool,
    size: int,
    label: str,
) -> Iterator[tuple[str, CopyReport | None]]:
    """Make a folder for layer ``id``, let the block fill it, and publish it after that.

    Raises:
        LayerError, CopyError, OperationError: as ``Driver.create_read_write`` does.
    """
    layers = f"{how.home}/{LAYERS}"
    layer = f"{layers}/{id}"
    if size:
        from reflayer.driver.quota import require_quota

        require_quota(f"{how.home}/{BUILDS}")
    with building(f"{how.home}/{BUILDS}", id) as path:
        folder = open_folder(layers)
        try:
            report = _fill(how, path, parent, progress, size)
            if label:
                set_label(path, label)
            record = None
            # The inodes of a snapshot tell themselves that they are the same.
            if parent is not None and report is not None and report.method != "snapshot":
                record = note(how.home, path, parent)
            with keeping(record, id):
                yield path, report
                if durable:
                    write_out(folder, path)
                publish(path, layer)
            if durable:
                write_name(folder, layer)
        finally:
            os.close(folder)


def _fill(
    how: Making, path: str, parent: str | None, progress: Progress | None, size: int
) -> CopyReport | None:
    """Make ``path`` an empty layer, or a clone of ``parent``, of at most ``size`` bytes."""

    def prepare(path: str) -> None:
        if size:
            from reflayer.driver.quota import set_quota

            set_quota(path, size, how.home)

    if parent is None:
        empty_layer(path, how.method, None if how.id_map is None else how.id_map.root)
        prepare(path)
        return None
    return clone_layer(
        f"{how.home}/{LAYERS}/{parent}",
        path,
        method=how.method,
        ownership=how.ownership,
        workers=how.workers,
        progress=progress,
        prepare=prepare,
    )
