"""All of a container goes out as a tar."""

from __future__ import annotations

from reflayer.archive import pack_tree
from reflayer.store.containers import container_with_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from reflayer.archive import Packing
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts


def export(parts: Parts, name: str, out: BinaryIO, progress: Progress | None) -> Packing:
    """What ``Store.export`` does."""
    with parts.database.reading() as db:
        container = container_with_folder(db, name, parts)
    packing = pack_tree(container.path)
    for chunk in packing:
        out.write(chunk)
        if progress is not None:
            progress("pack", packing.size, None)
    parts.driver.path(container.id)  # else its deletion may have gone before us
    return packing
