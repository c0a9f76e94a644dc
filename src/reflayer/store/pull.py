"""An image is had as its registry has it now."""

from __future__ import annotations

from reflayer.images import Platform
from reflayer.store import records
from reflayer.store.bring import bring
from reflayer.store.making import making
from reflayer.store.owners import remember_ownership

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images.registry import Access
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts
    from reflayer.store.records import StoredImage


def pull(
    parts: Parts,
    image: str,
    platform: str | None,
    access: Access | None,
    progress: Progress | None,
) -> StoredImage:
    """What ``Store.pull`` does."""
    wanted = None if platform is None else Platform.parse(platform)
    with making(parts) as until:
        brought = bring(image, wanted, "always", access, parts, until, progress)
        with parts.database.writing() as db:
            records.add_image(db, brought.image, brought.blobs, brought.stamp)
            remember_ownership(db, parts)
            return records.image(db, brought.image.id)
