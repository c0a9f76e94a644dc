"""The plain bytes of a zstd stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, cast

from zstandard import ZstdDecompressor, ZstdError

from reflayer.archive.zstd_frames import ZstdFrames

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from reflayer.archive.blob import Blob

__all__ = ["ZstdError", "ZstdReader"]

_READ_SIZE = 1 << 18


class ZstdReader:
    """The plain bytes of zstd frames, skippable ones passed over."""

    def __init__(self, blob: Blob) -> None:
        self._frames = ZstdFrames()
        self._blob = blob
        self._reader = ZstdDecompressor().stream_reader(
            cast("BinaryIO", self),  # its read is all that is used
            read_size=_READ_SIZE,
            read_across_frames=True,
            closefd=False,
        )

    def read(self, size: int) -> bytes:
        """The next compressed bytes, for zstandard."""
        data = self._blob.read(size) or b""
        self._frames.feed(memoryview(data))
        return data

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._reader.readinto(buffer)
        if count == 0:
            self._frames.finish()
        return count
