"""What brings images into the blob store, and out of it; and the blobs that are missing there."""

from __future__ import annotations

from abc import ABC, abstractmethod

from reflayer.images.content.resolve import choose_image
from reflayer.images.content.transfer import Transfer
from reflayer.images.model.descriptor import check_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.resolve import Open
    from reflayer.images.content.transfer import Told
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.document import Document
    from reflayer.images.model.image import Image
    from reflayer.images.model.platform import Platform
    from reflayer.progress import Progress

    Fetched = tuple[Image, tuple[str, ...]]
    Unpack = Callable[[Image, Open], None]

UNSETTLED = 2.0
"""Seconds in which a file can change again without its times telling."""


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
            unpack: is called with the image and what opens its layers by their digests, perhaps
                while they come: then a read waits for bytes, and at the end of a layer that is not
                what it should be it raises.

        Returns:
            The image, and what a store calls it: first its ``name``.

        Raises:
            ImageError: there is no such image, or it is not right.
            OperationError: it could not be read or written.
        """
        image, names = self._fetch(content, platform, progress)
        if unpack is not None:
            unpack(image, content.open)
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


def fetch_image(
    image: Image, open_blob: Open, content: BlobStore, progress: Progress | None
) -> None:
    """Bring ``image`` into ``content``, its manifest last; ``open_blob`` is called by threads."""
    add_blobs(content, open_blob, (image.config, *image.layers), progress)
    add_blobs(content, open_blob, (image.manifest,), None)
    content.sync()


def fetch_listed(
    index: Document,
    which: str,
    open_blob: Open,
    content: BlobStore,
    platform: Platform | None,
    progress: Progress | None,
    where: str,
) -> tuple[Image, Descriptor]:
    """Bring in the image of a layout that ``which`` names; return what is listed for it, too."""
    image, top = choose_image(index, which, platform, nearest(content, open_blob), where)
    fetch_image(image, open_blob, content, progress)
    return image, top


def nearest(content: BlobStore, open_blob: Open) -> Open:
    """Opens a blob where ``content`` has it, else by ``open_blob``."""
    return lambda digest: content.open(digest) if content.has(digest) else open_blob(digest)


def add_blobs(
    content: BlobStore, open_blob: Open, blobs: Iterable[Descriptor], progress: Progress | None
) -> None:
    """Add the blobs that ``content`` lacks, the largest first, several at once."""

    def add(one: Descriptor, told: Told) -> None:
        with open_blob(one.digest) as blob:
            content.add(blob, digest=one.digest, size=one.size, progress=told)

    largest_first = sorted(missing_blobs(content, blobs), key=lambda one: -one.size)
    with Transfer("fetch", largest_first, add, progress).running():
        pass


def missing_blobs(content: BlobStore, blobs: Iterable[Descriptor]) -> list[Descriptor]:
    """Those of ``blobs`` that ``content`` lacks, each once."""
    missing = []
    for one in {one.digest: one for one in blobs}.values():
        if content.has(one.digest):
            check_size(content.size(one.digest), one.size, one.digest)
        else:
            missing.append(one)
    return missing
