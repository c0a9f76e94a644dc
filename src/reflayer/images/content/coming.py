"""Layers that are read while they come: each into a file, and as far as that is there."""

from __future__ import annotations

import io
import os

from reflayer.errors import ArchiveError
from reflayer.images.content.source import LayerBlobs
from reflayer.images.content.transfer import Transfer, missing_blobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import BinaryIO

    from _typeshed import WriteableBuffer

    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.resolve import Open
    from reflayer.images.content.source import Unpack
    from reflayer.images.content.transfer import Told
    from reflayer.images.model.descriptor import Descriptor
    from reflayer.images.model.image import Image
    from reflayer.progress import Progress

    Fetch = Callable[["ComingBlob", Transfer[Descriptor], Told], None]


class ComingBlob:
    """A blob that is coming, most often a layer.

    Attributes:
        blob: what it has to be.
        fd: the file that it comes into; -1 until there is one.
        readable: how many bytes may be read there.
        done: whether it is complete, and checked.
    """

    def __init__(self, blob: Descriptor) -> None:
        self.blob = blob
        self.fd = -1
        self.readable = 0
        self.done = False

    def become(self, fd: int) -> None:
        """Come into the file ``fd``, which is taken over; also for those that read another one."""
        if self.fd < 0:
            self.fd = fd
            return
        try:
            os.dup2(fd, self.fd, inheritable=False)
        finally:
            os.close(fd)


def fetch_layers(
    image: Image,
    blobs: Iterable[Descriptor],
    content: BlobStore,
    fetch: Fetch,
    progress: Progress | None,
    unpack: Unpack | None,
    interrupt: Callable[[], None] = lambda: None,
) -> list[str]:
    """Have those of ``blobs`` that ``content`` lacks come side by side.

    Meanwhile ``image`` is unpacked, whose layers are among them. ``fetch`` has one come, until it
    is complete and checked, and tells of what is ``readable`` within the transfer's ``changing``.
    ``interrupt`` is that of ``Transfer``.

    Returns:
        The digests of those that came.
    """
    layers = {blob.digest: ComingBlob(blob) for blob in missing_blobs(content, blobs)}

    def come(blob: Descriptor, told: Told) -> None:
        layer = layers[blob.digest]
        fetch(layer, transfer, told)
        with transfer.changing():
            layer.done = True

    def open_layer(digest: str) -> BinaryIO:
        if digest not in layers:
            return content.open(digest)
        return _Reader(layers[digest], transfer)  # type: ignore[return-value]

    missing = [layer.blob for layer in layers.values()]
    transfer = Transfer("fetch", missing, come, progress, interrupt)
    try:
        with transfer.running():
            if unpack is not None:
                unpack(image, LayerBlobs(open_layer, checked=True, stop=transfer.stop))
    finally:
        for layer in layers.values():
            if layer.fd >= 0:
                os.close(layer.fd)
    return list(layers)


def copy_layers(
    image: Image,
    open_blob: Open,
    content: BlobStore,
    progress: Progress | None,
    unpack: Unpack | None,
) -> None:
    """Add what ``content`` lacks of ``image`` but its manifest, which ``open_blob`` has at once."""

    def copy(layer: ComingBlob, transfer: Transfer[Descriptor], told: Told) -> None:
        def come_to(count: int) -> None:
            with transfer.changing():
                layer.readable = count
            told(count)

        digest, size = layer.blob.digest, layer.blob.size
        with open_blob(digest) as source:
            content.add(source, digest=digest, size=size, progress=come_to, begin=layer.become)
        if layer.fd < 0:  # another process was faster
            layer.become(os.open(content.path(digest), os.O_RDONLY | os.O_CLOEXEC))
            come_to(size)

    fetch_layers(image, (image.config, *image.layers), content, copy, progress, unpack)


class _Reader(io.RawIOBase):
    """A layer's bytes, as they come."""

    def __init__(self, layer: ComingBlob, transfer: Transfer[Descriptor]) -> None:
        self._layer = layer
        self._transfer = transfer
        self._position = 0

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(None, error, traceback)
        if isinstance(error, ArchiveError):
            # That something else came than should have is the better reason.
            self._transfer.wait(lambda: self._layer.done)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation
        self._position = offset
        return offset

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read what has come; where there is none wait, or raise what keeps it from coming."""
        layer = self._layer
        if self._position == layer.blob.size:
            self._transfer.wait(lambda: layer.done)
            return 0
        self._transfer.wait(lambda: layer.readable > self._position)
        view = memoryview(buffer)[: layer.readable - self._position]
        count = os.preadv(layer.fd, [view], self._position)
        if view and not count:  # emptied meanwhile, as it turned out to be something else
            self._transfer.wait(lambda: layer.done)
            count = os.preadv(layer.fd, [view], self._position)
        self._position += count
        return count
