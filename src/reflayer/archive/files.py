"""Ordinary files, made in batches by the part in C while the archive is read on; and their data.

A batch is what one chunk has of them. A thread makes one after the other, and so does the caller
whenever it would wait, so that neither processor is idle. Two batches may be made at once: no name
is in two of them. A file that cannot be made in C is made by the caller when it ``settle``s. So a
name that comes twice, or is there already, ends as it would one file after the other.

The caller has to ``settle`` before anything that could see or lose such a file.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import Empty, SimpleQueue

from reflayer.linux.names import native
from reflayer.linux.xattrs import path_at
from reflayer.workers.pool import shared_pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self, TypeAlias

    from reflayer.archive.layer_metadata import LayerFolder, LayerMetadata
    from reflayer.archive.tar_header import Entry, SparseMap
    from reflayer.archive.tar_reader import TarStream

    Make: TypeAlias = Callable[[LayerFolder, bytes, Entry, memoryview], None]
    _File: TypeAlias = tuple[int, bytes, int, int, int, int, int, int, int]

_make_files: Any = getattr(native, "make_files", None)

_MOST_PENDING = 1 << 14  # names
_MARKS = 1 << 20  # bytes: one for all names of the same hash
_BLOCK = 4096  # bytes; of most file systems, and a hole is whole blocks
_ZEROS = bytes(_BLOCK)
_AS_MADE = 2**32 - 1  # chown(2): leave the owner as it is


class _Batch:
    """Files whose data is in one chunk."""

    __slots__ = ("chunk", "entries", "files", "free", "made", "number", "over")

    def __init__(self, chunk: memoryview, number: int) -> None:
        self.chunk = chunk
        self.number = number
        self.entries: list[tuple[LayerFolder, Entry]] = []
        self.files: list[_File] = []  # the same, as the part in C takes them
        self.made = 0  # of them
        self.free: Callable[[], None] = lambda: None  # what to call when all are made
        self.over = threading.Lock()  # held until nobody is at it any more
        self.over.acquire()


class Files:
    """Makes files behind, until it is left; ``make`` makes one that the part in C cannot."""

    def __init__(self, metadata: LayerMetadata, stream: TarStream, make: Make) -> None:
        self._metadata = metadata
        self._stream = stream
        self._make = make
        self._batch: _Batch | None = None
        self._pending: set[tuple[LayerFolder, bytes]] = set()  # and some that are made by now
        self._others = bytearray(_MARKS)
        self._begun = self._made = 0  # the last batch's number
        self._batches: deque[_Batch] = deque()  # in the archive's order
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()  # that nobody is at yet
        self._ended = self._has_failed = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """After an error no more is made than the batch at hand."""
        thread, signalled = self._thread, None
        self._ended = True
        self._queue.put(None)
        while thread is not None and thread.is_alive():
            try:
                thread.join()
            except BaseException as raised:  # a signal's; what is open may not be shut yet
                signalled = raised
        if signalled is not None:
            raise signalled

    def add(self, folder: LayerFolder, name: bytes, entry: Entry) -> bool:
        """Have the file ``entry``, whose data is at hand, made; False where it is not ordinary."""
        stream = self._stream
        at, size = stream.position, entry.size
        if (
            _make_files is None
            or entry.mode > 0o777
            or (entry.attributes and not self._metadata.is_recorded_after(entry))
            or entry.sparse is not None
            or at + size > len(stream.view)
            or (folder, name) in self._pending
            or self._may_replace(folder, name)
        ):
            return False
        uid = gid = _AS_MADE
        if not self._metadata.is_owned(folder, entry):
            if not self._metadata.powerful:
                return False
            uid, gid = entry.uid, entry.gid
        batch = self._batch
        if batch is None:
            self._begun += 1
            batch = self._batch = _Batch(stream.view, self._begun)
        folder.batch = batch.number
        batch.entries.append((folder, entry))
        file = folder.fd, name, at, size, entry.mode, uid, gid, entry.atime, entry.mtime
        batch.files.append(file)
        self._pending.add((folder, name))
        return True

    def _may_replace(self, folder: LayerFolder, name: bytes) -> bool:
        """Whether there may be a folder or link of that name: paths may lead through it."""
        if folder.made is None:
            return self._others[hash((folder.key, name)) % _MARKS] != 0
        return os.access(name, os.F_OK, dir_fd=folder.fd, follow_symlinks=False)

    def other(self, folder: LayerFolder, name: bytes) -> None:
        """Before ``name`` is made in ``folder`` in another way."""
        self._others[hash((folder.key, name)) % _MARKS] = 1
        if (folder, name) in self._pending:
            self.settle()

    def settle(self, folder: LayerFolder | None = None) -> bool:
        """Have all files made, or those of ``folder`` at least; whether there were any."""
        last = self._begun if folder is None else folder.batch
        if self._made >= last:
            return False
        if self._batch is not None and self._batch.number <= last:
            self._flush()
        while self._made < last:
            while self._batches[0].over.locked():
                try:
                    batch = self._queue.get_nowait()
                except Empty:
                    self._batches[0].over.acquire()
                    break
                assert batch is not None  # which is put there only at the end
                self._make_batch(batch)
            self._end_first()
        if folder is None:
            self._pending.clear()
        return True

    def release(self, free: Callable[[], None]) -> None:
        """Call ``free`` when no file needs the chunk at hand any more."""
        if self._thread is None:
            self.settle()
            free()
            if _make_files is not None and shared_pool().is_free():
                self._thread = threading.Thread(target=self._make_all, name="reflayer-files")
                try:
                    self._thread.start()
                except RuntimeError:  # no more threads for this user
                    self._thread = None
            return
        if self._batch is None:
            free()  # a batch of it that was flushed was settled, too
        else:
            self._batch.free = free
            self._flush()
        while self._batches and not self._batches[0].over.locked():
            self._end_first()
        if len(self._pending) > _MOST_PENDING:
            self.settle()

    def settle_earlier(self) -> None:
        """After an error have made what comes before it: an error of that is told in its place.

        If it was of a file, what comes before that is made.
        """
        if not self._has_failed:
            self.settle()

    def _flush(self) -> None:
        assert self._batch is not None
        self._batches.append(self._batch)
        self._queue.put(self._batch)
        self._batch = None

    def _make_all(self) -> None:
        pool = shared_pool()
        is_taken = pool.take()
        try:
            while (batch := self._queue.get()) is not None and not self._ended:
                self._make_batch(batch)
        finally:
            if is_taken:
                pool.give_back()

    def _make_batch(self, batch: _Batch) -> None:
        try:
            self._make_in_c(batch)
        finally:
            if batch.made == len(batch.files):
                batch.free()
            batch.over.release()

    def _make_in_c(self, batch: _Batch) -> None:
        """Make its files up to the first that cannot be made so."""
        try:
            files = tuple(batch.files)
            while made := _make_files(batch.chunk, self._metadata.withheld, files, batch.made):
                for _ in range(made):
                    for attribute, value in batch.entries[batch.made][1].attributes.items():
                        path = path_at(*files[batch.made][:2])
                        os.setxattr(path, attribute, value, follow_symlinks=False)
                    batch.made += 1
        except Exception:  # such as a time beyond 64 bits, of which ``make`` will tell
            pass

    def _end_first(self) -> None:
        """Make what could not be made in C of the first batch, which is over."""
        batch = self._batches.popleft()
        self._made = batch.number  # first: what is made anew may settle the others
        if batch.made < len(batch.files):
            while batch.made < len(batch.files):
                folder, entry = batch.entries[batch.made]
                _, name, at, size, *_ = batch.files[batch.made]
                try:
                    self._make(folder, name, entry, batch.chunk[at : at + size])
                except BaseException:
                    self._has_failed = True
                    raise
                batch.made += 1
                self._make_in_c(batch)
            batch.free()


def write_data(fd: int, stream: TarStream, sparse: SparseMap | None) -> None:
    """Write all data of the entry at hand to the new, empty file ``fd``.

    What its map says are holes come out as holes, and so do blocks of zeros, since not every
    program that makes layers knows of maps.
    """
    if sparse is None:
        _write_unmapped(fd, stream, stream.left)
        return
    # First: a file system that expects a growing file to go on growing would fill the holes.
    os.ftruncate(fd, sparse.size)
    for offset, length in sparse:
        _write_span(fd, stream, offset, length)


def _write_unmapped(fd: int, stream: TarStream, size: int) -> None:
    piece = stream.data(size)
    if size < _BLOCK and len(piece) == size:
        pwrite_all(fd, piece, 0)
        return
    islands = list(_islands(piece, 0))
    if len(piece) < size or islands != [(0, size)]:
        os.ftruncate(fd, size)
    for start, end in islands:
        pwrite_all(fd, piece[start:end], start)
    _write_span(fd, stream, len(piece), size - len(piece))


def _write_span(fd: int, stream: TarStream, offset: int, size: int) -> None:
    while size:
        piece = stream.data(size)
        for start, end in _islands(piece, offset):
            pwrite_all(fd, piece[start:end], offset + start)
        offset += len(piece)
        size -= len(piece)


def _islands(piece: memoryview, offset: int) -> Iterator[tuple[int, int]]:
    """Where ``piece``, which belongs at ``offset``, is more than zeros.

    It is looked at by the file's blocks, and by what the piece has of a block at its ends. That the
    first byte is none of zeros tells of most, and of all of them in one call.
    """
    head = min(-offset % _BLOCK, len(piece))
    start = head if head and _is_zeros(piece[:head]) else 0
    firsts = piece[head::_BLOCK].tobytes()
    number = firsts.find(0)
    while number >= 0:
        at = head + number * _BLOCK
        block = piece[at : at + _BLOCK]
        if _is_zeros(block):
            if start < at:
                yield start, at
            start = at + len(block)
        number = firsts.find(0, number + 1)
    if start < len(piece):
        yield start, len(piece)


def _is_zeros(block: memoryview) -> bool:
    return block[-1] == 0 and _ZEROS.startswith(block)


def pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``, however often the kernel takes only a part."""
    while (written := os.pwrite(fd, data, offset)) < len(data):
        data = data[written:]
        offset += written
