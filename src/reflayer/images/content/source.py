"""Where an image comes from and where it goes: what its transport has to do."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod

from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.resolve import Open
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress

    Fetched = tuple[Image, tuple[str, ...]]
    Unpack = Callable[[Image, "LayerBlobs"], None]

UNSETTLED = 2.0
"""Seconds in which a file can change again without its times telling."""


def file_stamp(path: str) -> str:
    """What is the same as long as the file at ``path`` is; empty where it was changed just now.

    Raises:
        OSError: it cannot be looked at.
    """
    status = os.stat(path)
    if time.time() - status.st_ctime < UNSETTLED:
        return ""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, (status.st_dev, status.st_ino, status.st_size, *times)))


def _nothing() -> None:
    pass


@record
class LayerBlobs:
    """How the layers of an image are read, perhaps while they come; any thread may call these.

    Attributes:
        open: opens one by its digest; then a read may wait for bytes.
        checked: reading the end of one raises if it is not what it should be.
        stop: makes what waits for bytes, and waits for them later, raise.
    """

    open: Open
    checked: bool = False
    stop: Callable[[], None] = _nothing


class Source(ABC):
    """An image somewhere, to be fetched."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What a store calls the image."""

    def stamp(self) -> str:
        """What is the same as long as the image is; empty where only fetching it tells."""
        return ""

    def fetch(
        self,
        content: BlobStore,
        platform: Platform | None,
        progress: Progress | None,
        unpack: Unpack | None = None,
    ) -> Fetched:
        """Bring the image into ``content``; all of its blobs are there, checked, on return.

        Args:
            content: where the blobs go. Those that are there are not read again.
            platform: what it has to run on; None for this machine, or for whatever the only one is.
            progress: is told of stage ``fetch``, in bytes, by one thread at a time.
            unpack: is called with the image and its layers, perhaps while they come.

        Returns:
            The image, and what a store calls it: first its ``name``.

        Raises:
            ImageError: there is no such image, or it is not right.
            OperationError: it could not be read or written.
        """
        image, names = self._fetch(content, platform, progress)
        if unpack is not None:
            unpack(image, LayerBlobs(content.open))
        return image, names

    def _fetch(
        self, content: BlobStore, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        """As ``fetch``, of a source that is there at once."""
        raise NotImplementedError


class Destination(ABC):
    """A place that an image can be written to.

    Attributes:
        is_plain: whether layers are always plain there.
    """

    __slots__ = ()
    is_plain = False

    @abstractmethod
    def write(self, content: BlobStore, image: Image, progress: Progress | None) -> None:
        """Write ``image`` there, all of whose blobs are in ``content``.

        A manifest of OCI's may be added to ``content`` for that. ``progress`` is told of the bytes,
        by one thread at a time.
        """
