"""A new layer: made where layers are built, filled, and published when it is whole."""

from __future__ import annotations

import os
from contextlib import contextmanager

from reflayer.driver.builds import building, publish
from reflayer.driver.clone import clone_layer, empty_layer
from reflayer.driver.cloned import drop, keep, note
from reflayer.driver.durable import open_folder, write_name, write_out
from reflayer.driver.home import BUILDS, LAYERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from reflayer.copy import CopyReport, Pool

    Progress = Callable[[int, int], None]


class Making:
    """How one driver makes layers; the attributes are those of ``Driver``'s arguments."""

    __slots__ = ("home", "method", "ownership", "pool", "workers")

    def __init__(
        self, home: str, method: str, ownership: str, workers: int | None, pool: Pool | None
    ) -> None:
        self.home = home
        self.method = method
        self.ownership = ownership
        self.workers = workers
        self.pool = pool


@contextmanager
def making(
    how: Making, id: str, parent: str | None, progress: Progress | None, *, durable: bool
) -> Iterator[tuple[str, CopyReport | None]]:
    """Make a folder for layer ``id``, let the block fill it, and publish it after that.

    Raises:
        LayerError, CopyError, OperationError: as ``Driver.create`` does.
    """
    layers = f"{how.home}/{LAYERS}"
    layer = f"{layers}/{id}"
    with building(f"{how.home}/{BUILDS}", id) as path:
        folder = open_folder(layers)
        record = report = None
        try:
            if parent is None:
                empty_layer(path, how.method)
            else:
                report = clone_layer(
                    f"{layers}/{parent}",
                    path,
                    method=how.method,
                    ownership=how.ownership,
                    workers=how.workers,
                    pool=how.pool,
                    progress=progress,
                )
                if report.method != "snapshot":  # whose inodes tell that they are the same
                    record = note(how.home, path, parent)
            yield path, report
            if durable:
                write_out(folder, path)
            publish(path, layer)
            if record is not None:
                keep(record, id)
                record = None
            if durable:
                write_name(folder, layer)
        finally:
            os.close(folder)
            if record is not None:
                drop(record)
