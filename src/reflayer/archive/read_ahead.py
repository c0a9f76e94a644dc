"""The plain bytes in chunks, decompressed and hashed by threads while the caller works."""

from __future__ import annotations

import threading
from functools import partial
from queue import SimpleQueue

from reflayer.archive.tar_header import BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from hashlib import _Hash as Hash
    from typing import Self

    from reflayer.archive.compression import Source

CHUNK = 2048 * BLOCK  # 1 MiB: fewer turns of the interpreter lock than smaller ones take
_CHUNKS = 8  # enough to get ahead while small files are made, for the large ones

_Filled = tuple[bytearray, int] | BaseException


class ReadAhead:
    """Reads at most 8 MiB ahead of the iteration over it, until it is left.

    Threads start only once there is more than one chunk. Leaving ends them, but waits for a read of
    the blob that one may be in.

    Attributes:
        count: plain bytes handed out so far.
        release: is given what frees a chunk when the next is asked for, and has to call that.
        settle: is called before waiting; has to free all chunks.
    """

    def __init__(self, reader: Source, hashing: Hash | None) -> None:
        """Read all of ``reader``, which fills what it is given, but at its end.

        ``hashing`` gets every byte of it, where there is one.
        """
        self.count = 0
        self._reader = reader
        self._hash = hashing
        self._free: SimpleQueue[bytearray | None] = SimpleQueue()
        self._filled: SimpleQueue[_Filled] = SimpleQueue()  # for the caller
        self._read: SimpleQueue[_Filled | None] = SimpleQueue()  # and not hashed yet
        self._threads: list[threading.Thread] = []
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

        Raises:
            ArchiveError: the data is damaged or ends too early.
            OperationError: the blob could not be read.
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
