"""The plain bytes in chunks, decompressed and hashed by a thread while the caller works."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from reflayer.archive.tar_header import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from reflayer.archive.blob import Hash
    from reflayer.archive.compression import Source

CHUNK = 2048 * BLOCK  # 1 MiB: fewer turns of the interpreter lock than smaller ones take
_CHUNKS = 16  # enough to get ahead while small files are made, for the large ones

_Filled = tuple[bytearray, int] | BaseException


class ReadAhead:
    """Reads ahead of whoever iterates over it, at most 16 MiB, until it is left.

    A thread starts only once there is more than one chunk. Leaving ends it, but waits for a read of
    the blob that it may be in.

    Attributes:
        count: plain bytes handed out so far.
    """

    def __init__(self, reader: Source, hashing: Hash | None) -> None:
        """Read all of ``reader``, which fills what it is given, but at its end.

        ``hashing`` gets every byte of it, where there is one.
        """
        self.count = 0
        self._reader = reader
        self._hash = hashing
        self._free: SimpleQueue[bytearray | None] = SimpleQueue()
        self._filled: SimpleQueue[_Filled] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._free.put(None)
            self._thread.join()

    def __iter__(self) -> Iterator[memoryview]:
        """The chunks in order: whole tar blocks, only the last may end amid one.

        A chunk is gone when the next is asked for.

        Raises:
            ArchiveError: the data is damaged or ends too early.
            OperationError: the blob could not be read.
        """
        buffer = bytearray(CHUNK)
        size = self._fill(buffer)
        self.count += size
        yield memoryview(buffer)[:size]
        if size < CHUNK:
            return
        for _ in range(_CHUNKS - 1):
            self._free.put(bytearray(CHUNK))
        self._thread = threading.Thread(target=self._fill_all, name="reflayer-read-ahead")
        self._thread.start()
        while size == CHUNK:
            self._free.put(buffer)
            filled = self._filled.get()
            if isinstance(filled, BaseException):
                raise filled
            buffer, size = filled
            self.count += size
            yield memoryview(buffer)[:size]

    def _fill_all(self) -> None:
        try:
            while (buffer := self._free.get()) is not None:
                size = self._fill(buffer)
                self._filled.put((buffer, size))
                if size < CHUNK:
                    return
        except BaseException as error:
            self._filled.put(error)

    def _fill(self, buffer: bytearray) -> int:
        size = self._reader.readinto(buffer)
        if self._hash is not None:
            self._hash.update(memoryview(buffer)[:size])
        return size
