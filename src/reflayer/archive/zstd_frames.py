"""The frames of a zstd stream, followed so that a cut or a stray tail shows.

zstandard's reader ends quietly wherever its input does. RFC 8878, section 3.1, has the format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reflayer.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Generator

    Step = tuple[str, int]  # what to do with how many bytes, at least one

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_DICTIONARY_ID_SIZE = (0, 1, 2, 4)
_CONTENT_SIZE_SIZE = (0, 2, 4, 8)
_RLE_BLOCK = 1


def is_zstd(head: bytes) -> bool:
    """Whether a stream that begins with ``head`` begins with a frame, be it a skippable one."""
    magic = int.from_bytes(head[:4], "little")
    return magic == _MAGIC or magic & ~0xF == _SKIPPABLE


class ZstdFrames:
    """Follows the compressed bytes as they pass."""

    def __init__(self) -> None:
        self._walk = _walk()
        self._action, self._size = next(self._walk)
        self._kept = b""

    def feed(self, data: memoryview) -> None:
        """Follow ``data``, the next bytes of the stream.

        Raises:
            ArchiveError: something after a frame is no frame.
        """
        position = 0
        while position < len(data):
            piece = data[position : position + self._size]
            position += len(piece)
            self._size -= len(piece)
            if self._action != "skip":
                self._kept += piece
            if self._size == 0:
                self._action, self._size = self._walk.send(self._kept)
                self._kept = b""

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            ArchiveError: it ended inside a frame.
        """
        if self._action != "begin" or self._kept:
            raise ArchiveError("the zstd data ends too early")


def _walk() -> Generator[Step, bytes, None]:
    """Ask for what comes next: "begin" a frame, "keep" the bytes and send them here, or "skip"."""
    while True:
        magic = yield "begin", 4
        if not is_zstd(magic):
            raise ArchiveError("something other than zstd data follows the zstd data")
        if int.from_bytes(magic, "little") == _MAGIC:
            yield from _walk_frame()
        else:
            size = int.from_bytes((yield "keep", 4), "little")
            if size:
                yield "skip", size


def _walk_frame() -> Generator[Step, bytes, None]:
    descriptor = (yield "keep", 1)[0]
    single_segment = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_SIZE[descriptor >> 6] or single_segment
    header = 1 - single_segment + _DICTIONARY_ID_SIZE[descriptor & 3] + content_size
    yield "skip", header  # at least one byte: the window or the content size
    last = False
    while not last:
        block = int.from_bytes((yield "keep", 3), "little")
        last = bool(block & 1)
        size = 1 if block >> 1 & 3 == _RLE_BLOCK else block >> 3
        if size:
            yield "skip", size
    if descriptor & 4:  # checksum
        yield "skip", 4
