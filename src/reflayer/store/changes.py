"""What changed in a container."""

from __future__ import annotations

from reflayer.store import records
from reflayer.store.containers import container_with_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from reflayer.archive import Change
    from reflayer.store.parts import Parts


def changes(parts: Parts, name: str) -> Iterator[Change]:
    """What ``Store.changes`` does."""
    with parts.database.reading() as db:
        container = container_with_folder(db, name, parts)
        layer = records.image(db, container.image_id).layer
    return parts.driver.changes(container.id, layer)
