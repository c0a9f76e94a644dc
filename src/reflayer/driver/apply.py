"""A layer's archive applied to a layer that is there."""

from __future__ import annotations

import os
from typing import BinaryIO

from reflayer.archive import apply_stream
from reflayer.driver.builds import building, publish
from reflayer.driver.durable import open_folder, write_name, write_out
from reflayer.driver.home import BUILDS, LAYERS
from reflayer.driver.write_back import writing_back
from reflayer.errors import LayerError, OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.driver.making import Making
    from reflayer.progress import Progress


def apply_to_layer(how: Making, id: str, stream: BinaryIO, progress: Progress | None) -> int:
    """What ``Driver.apply`` does.

    The layer goes back to where layers are built, and comes again when it is whole: so a crash or
    failure amid the archive leaves none, as it leaves none of those that are being made.
    """
    layers = f"{how.home}/{LAYERS}"
    layer = f"{layers}/{id}"
    with building(f"{how.home}/{BUILDS}", id) as path:
        folder = open_folder(layers)
        try:
            try:
                os.rename(layer, path)
            except FileNotFoundError as error:
                raise LayerError(f"there is no layer {id}") from error
            except OSError as error:
                raise OperationError.from_os_error(error, os.fsencode(layer), "rename") from error
            with writing_back(folder, path) as come_to:

                def told(count: int) -> None:
                    come_to(count)
                    if progress is not None:
                        progress("unpack", count, None)

                size = apply_stream(
                    path, stream, ownership=how.ownership, id_map=how.id_map, progress=told
                )
            write_out(folder, path)
            publish(path, layer)
            write_name(folder, layer)
        finally:
            os.close(folder)
    return size
