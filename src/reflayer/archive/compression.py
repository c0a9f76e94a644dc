"""A layer's blob becomes chunks of plain bytes: counted, hashed, decompressed, ahead of its reader.

Compressed by gzip, zstd, bzip2 or xz, or not at all: the first bytes tell. ``Blob`` is never longer
than promised, ``PlainReader`` is what it holds, and ``ReadAhead`` does both in threads.
"""

from __future__ import annotations

import io
import sys
import threading
from functools import partial
from queue import SimpleQueue

from reflayer.archive.tar_header import BLOCK, is_header
from reflayer.errors import ArchiveError, failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from hashlib import _Hash as Hash
    from types import ModuleType
    from typing import Any, BinaryIO, Protocol, Self

    from _typeshed import WriteableBuffer

    class Source(Protocol):
        def readinto(self, buffer: WriteableBuffer, /) -> int: ...


CHUNK = 2048 * BLOCK  # 1 MiB: fewer turns of the interpreter lock than smaller ones take
_CHUNKS = 8  # enough to get ahead while small files are made, for the large ones

_Filled = tuple[bytearray, int] | BaseException
_READ_SIZE = 1 << 18
_MOST_WINDOW_LOG = 29  # 512 MiB, as in the engines' decoder: what content can make us allocate
_MOST_XZ_MEMORY = (1 << _MOST_WINDOW_LOG) + (1 << 20)
_ZSTD_MAGIC, _ZSTD_SKIPPABLE = 0xFD2FB528, 0x184D2A50  # RFC 8878, section 3.1


class Blob:
    """The compressed bytes, passed on as they come; ``count`` is how many so far."""

    def __init__(self, raw: BinaryIO, hashing: Hash | None, size: int | None) -> None:
        """Read ``raw`` to its end, at most ``size`` bytes; ``hashing`` gets every byte."""
        self.count = 0
        self._raw = raw
        # It spares a copy; but whatever reads in a way of its own, and may check, does so in read.
        self._readinto: Callable[[WriteableBuffer], int] | None = None
        if type(raw) in (io.FileIO, io.BufferedReader):
            self._readinto = raw.readinto  # type: ignore[attr-defined]
        self._hash = hashing
        self._size = size
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        """The first ``size`` bytes, fewer where the blob ends; before anything is read."""
        while len(self._ahead) < size and (piece := self._next(size - len(self._ahead))):
            self._ahead += piece
        return self._ahead

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, as one read has them; none at the end."""
        data = self._ahead[:size] or self._next(size)
        self._ahead = self._ahead[len(data) :]
        return data

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` as far as one ``read`` goes."""
        view = memoryview(buffer)
        if self._ahead or self._readinto is None:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)
        with failing("the layer's blob", "read"):
            count = self._readinto(view)
        self._take(view[:count])
        return count

    def _next(self, size: int) -> bytes:
        with failing("the layer's blob", "read"):
            data = self._raw.read(size)
        self._take(data)
        return data

    def _take(self, data: bytes | memoryview) -> None:
        self.count += len(data)
        if self._size is not None and self.count > self._size:
            raise ArchiveError(f"the blob is longer than the {self._size} bytes it should have")
        if self._hash is not None:
            self._hash.update(data)


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
    magic = int.from_bytes(head[:4], "little")
    if magic == _ZSTD_MAGIC or magic & ~0xF == _ZSTD_SKIPPABLE:
        return "zstd"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    return "none"


class PlainReader:
    """The plain bytes of a blob; its ``compression`` is as ``compression_of`` tells it."""

    def __init__(self, blob: Blob) -> None:
        self.compression = compression_of(blob.peek(BLOCK))
        self._source, self._damaged = _open(blob, self.compression)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill ``buffer``, and less than all of it only at the end."""
        view = memoryview(buffer)
        filled = 0
        try:
            while filled < len(view) and (count := self._source.readinto(view[filled:])):
                filled += count
        except EOFError as error:
            raise ArchiveError(f"the {self.compression} data ends too early") from error
        except (OSError, OverflowError, MemoryError, self._damaged) as error:
            # The blob's own failures come as OperationError.
            reason = f"is damaged: {error}"
            if isinstance(error, MemoryError) or "emory" in str(error):
                reason = "needs a window of more than 512 MiB, or more memory than there is"
            raise ArchiveError(f"the {self.compression} data {reason}") from error
        return filled


def _open(blob: Blob, compression: str) -> tuple[Source, type[Exception]]:
    """The reader for ``compression``, and what it raises for damaged data beside OSError.

    Only the library that is needed is imported: together they take longer than a small layer.
    """
    match compression:
        case "gzip":
            new_gzip, damaged = _gzip()
            return _StreamsReader(blob, new_gzip), damaged
        case "zstd":
            zstd = load_zstd()
            options = {zstd.DecompressionParameter.window_log_max: _MOST_WINDOW_LOG}
            new_zstd = partial(zstd.ZstdDecompressor, options=options)
            return _StreamsReader(blob, new_zstd), zstd.ZstdError
        case "bzip2":
            from bz2 import BZ2Decompressor

            return _StreamsReader(blob, BZ2Decompressor), OSError
        case "xz":
            from lzma import LZMADecompressor, LZMAError

            new = partial(LZMADecompressor, memlimit=_MOST_XZ_MEMORY)
            return _StreamsReader(blob, new), LZMAError
    return blob, OSError


def _gzip() -> tuple[Callable[[], Any], type[Exception]]:
    """A decompressor for gzip, and what it raises for damaged data."""
    try:
        from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError
    except ImportError:
        import zlib

        from reflayer.archive.system_codecs import GzipDecompressor

        return GzipDecompressor, zlib.error
    return partial(IgzipDecompressor, flag=DECOMP_GZIP), IsalError  # type: ignore[return-value]


def load_zstd() -> ModuleType:
    """``compression.zstd``, which Python has from 3.14 on, or the same for an older one."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        from reflayer.archive import system_codecs

        return system_codecs
    return zstd


class _StreamsReader:
    """The plain bytes of streams of any of these compressions, one after another; zeros may follow.

    The standard library's file objects drop whatever follows without a word.
    """

    def __init__(self, blob: Blob, decompressor: Callable[[], Any]) -> None:
        """A ``decompressor`` is one as ``bz2`` has it, and ``lzma``, ``zstd`` and ``igzip_lib``."""
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
                self._input = self._blob.read(_READ_SIZE)
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


class ReadAhead:
    """Reads at most 8 MiB ahead of the iteration over it, until it is left.

    Threads start only once there is more than one chunk. Leaving ends them, but waits for a read of
    the blob that one may be in.
    """

    def __init__(self, reader: Source, hashing: Hash | None) -> None:
        """Read all of ``reader``, which fills what it is given; ``hashing`` gets every byte."""
        self.count = 0  # plain bytes handed out so far
        self._reader = reader
        self._hash = hashing
        self._free: SimpleQueue[bytearray | None] = SimpleQueue()
        self._filled: SimpleQueue[_Filled] = SimpleQueue()  # for the caller
        self._read: SimpleQueue[_Filled | None] = SimpleQueue()  # and not hashed yet
        self._threads: list[threading.Thread] = []
        # ``release`` is given what frees a chunk when the next is asked for, and has to call that;
        # ``settle`` is called before waiting, and has to free all chunks.
        self.release: Callable[[Callable[[], None]], None] = lambda free: free()
        self.settle: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._free.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def __iter__(self) -> Iterator[memoryview]:
        """The chunks in order: whole tar blocks, only the last may end amid one.

        A chunk is gone when it is freed.
        """
        buffer = bytearray(CHUNK)
        size = self._reader.readinto(buffer)
        if self._hash is not None:
            self._hash.update(memoryview(buffer)[:size])
        self.count += size
        yield memoryview(buffer)[:size]
        if size < CHUNK:
            return
        for _ in range(_CHUNKS - 1):
            self._free.put(bytearray(CHUNK))
        self._start(self._fill_all)
        if self._hash is not None:
            self._start(self._hash_all)
        while size == CHUNK:
            self.release(partial(self._free.put, buffer))
            if self._filled.empty():
                self.settle()
            filled = self._filled.get()
            if isinstance(filled, BaseException):
                raise filled
            buffer, size = filled
            self.count += size
            yield memoryview(buffer)[:size]

    def _start(self, stage: Callable[[], None]) -> None:
        thread = threading.Thread(target=stage, name="reflayer-read-ahead")
        self._threads.append(thread)
        thread.start()

    def _fill_all(self) -> None:
        out = self._filled if self._hash is None else self._read
        try:
            while (buffer := self._free.get()) is not None:
                size = self._reader.readinto(buffer)
                out.put((buffer, size))
                if size < CHUNK:
                    break
        except BaseException as error:
            out.put(error)
        self._read.put(None)

    def _hash_all(self) -> None:
        assert self._hash is not None
        while (read := self._read.get()) is not None:
            if isinstance(read, tuple):
                self._hash.update(memoryview(read[0])[: read[1]])
            self._filled.put(read)
