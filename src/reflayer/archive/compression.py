"""Plain, gzip, zstd, bzip2 or xz: told by the first bytes, read as plain bytes."""

from __future__ import annotations

import bz2
import io
import lzma
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, cast

import zstandard
from isal import igzip, isal_zlib

from reflayer.archive.tar_header import BLOCK, is_header
from reflayer.archive.zstd_frames import ZstdFrames, is_zstd
from reflayer.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from _typeshed import WriteableBuffer

    from reflayer.archive.blob import Blob

    class Source(Protocol):
        """Something to read into a buffer from."""

        def readinto(self, buffer: WriteableBuffer, /) -> int: ...

    class Decompressor(Protocol):
        """What ``bz2`` and ``lzma`` have in common."""

        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int) -> bytes: ...


_READ_SIZE = 1 << 18
_DAMAGED = (OSError, cast("type[Exception]", isal_zlib.error), zstandard.ZstdError, lzma.LZMAError)
_MOST_XZ_MEMORY = 1 << 27  # bytes; the strongest of xz's presets needs half of it


def compression_of(head: bytes) -> str:
    """How a stream that begins with ``head`` (512 bytes, or all there is) is compressed.

    A tar header is looked for first: its first bytes are a name, and that can be any.

    Returns:
        ``gzip``, ``zstd``, ``bzip2``, ``xz``, or ``none``.
    """
    if len(head) == BLOCK and is_header(head):
        return "none"
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if is_zstd(head):
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    return "none"


class PlainReader(io.RawIOBase):
    """The uncompressed bytes of a blob, in any of the usual compressions.

    Attributes:
        compression: which, as ``compression_of`` has it.
    """

    def __init__(self, blob: Blob) -> None:
        """Look at the first bytes of ``blob``, of which nothing has been read."""
        self.compression = compression_of(blob.peek(BLOCK))
        self._source = _open(blob, self.compression)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer``, and less than all of it only at the end.

        Raises:
            ArchiveError: the data is damaged, ends too early, or something follows it.
            OperationError: the blob could not be read.
        """
        view = memoryview(buffer)
        filled = 0
        try:
            while filled < len(view) and (count := self._source.readinto(view[filled:])):
                filled += count
        except EOFError as error:
            raise ArchiveError(f"the {self.compression} data ends too early") from error
        except _DAMAGED as error:
            # The blob's own failures come as OperationError.
            raise ArchiveError(f"the {self.compression} data is damaged: {error}") from error
        return filled


def _open(blob: Blob, compression: str) -> Source:
    match compression:
        case "gzip":
            return cast("Source", igzip.IGzipFile(fileobj=blob, mode="rb"))  # type: ignore[no-untyped-call]
        case "zstd":
            return _ZstdReader(blob)
        case "bzip2":
            return _StreamsReader(blob, bz2.BZ2Decompressor)
        case "xz":
            return _StreamsReader(blob, partial(lzma.LZMADecompressor, memlimit=_MOST_XZ_MEMORY))
    return blob


class _ZstdReader:
    """The plain bytes of zstd frames, skippable ones passed over."""

    def __init__(self, blob: Blob) -> None:
        self._frames = ZstdFrames()
        self._blob = blob
        self._reader = zstandard.ZstdDecompressor().stream_reader(
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


class _StreamsReader:
    """The plain bytes of bzip2 or xz streams, one after another; zeros may follow.

    The standard library's file objects drop whatever follows without a word.
    """

    def __init__(self, blob: Blob, decompressor: Callable[[], Decompressor]) -> None:
        self._blob = blob
        self._new = decompressor
        self._current = decompressor()
        self._started = False
        self._input = b""

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while True:
            if self._current.eof:
                self._input = self._current.unused_data
                self._current, self._started = self._new(), False
            if self._current.needs_input and not self._input:
                self._input = self._blob.read(_READ_SIZE) or b""
                if not self._input:
                    if self._started:
                        raise EOFError
                    return 0
            if not self._started:
                self._input = self._input.lstrip(b"\0")
                if not self._input:
                    continue
            self._started = True
            data, self._input = self._input, b""
            plain = self._current.decompress(data, len(view))
            if plain:
                view[: len(plain)] = plain
                return len(plain)
