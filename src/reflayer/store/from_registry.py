"""From a registry into the store: unpacked while it comes."""

from __future__ import annotations

from threading import Lock

from reflayer.images.registry.credentials import Access
from reflayer.images.registry.source import RegistrySource
from reflayer.store.unpack import unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.images import Image, Platform, Reference
    from reflayer.progress import Progress
    from reflayer.store.parts import Parts


def pull_image(
    reference: Reference,
    platform: Platform | None,
    access: Access | None,
    parts: Parts,
    progress: Progress | None,
) -> Image:
    """Have the blobs of an image in the content store and its layer in the driver.

    Args:
        reference: the image.
        platform: which of several to take, or None for what this machine runs.
        access: how its registry is to be spoken to; as usual where it is None.
        parts: the store's.
        progress: is told the stages ``fetch``, ``clone`` and ``unpack``.

    Raises:
        ReflayerError: it cannot be had. What has come stays for the next try, for a day.
    """
    told = progress and _one_at_a_time(progress)
    image, _ = RegistrySource(reference, access or Access()).fetch(
        parts.content,
        platform,
        told,
        lambda image, open_blob: unpack(image, parts, told, open_blob=open_blob),
    )
    return image


def _one_at_a_time(progress: Progress) -> Progress:
    lock = Lock()

    def told(stage: str, done: int, total: int | None) -> None:
        with lock:
            progress(stage, done, total)

    return told
