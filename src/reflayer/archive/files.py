"""Ordinary files, made in batches by the part in C while the archive is read on; and their data.

The batches of a layer are made in the archive's order by one thread; the first file that cannot be
made ends them all until the caller has made it, and what was to follow, as ``Layer`` does. So a
name that comes twice, or is there already, ends as it would one file after the other.

The caller has to ``settle`` before anything that could see or lose such a file.
"""

from __future__ import annotations

import os
import threading
from _thread import LockType
from queue import SimpleQueue

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
    _Item: TypeAlias = "_Batch | LockType | Callable[[], None]"

_make_files: Any = getattr(native, "make_files", None)

_MOST = 64  # files of a batch, as in C
_MOST_PENDING = 1 << 14  # names
_MARKS = 1 << 20  # bytes: one for all names of the same hash
_BLOCK = 4096  # bytes; of most file systems, and a hole is whole blocks
_ZEROS = bytes(_BLOCK)
_AS_MADE = 2**32 - 1  # chown(2): leave the owner as it is


class _Batch:
    """Files of one folder whose data is in one chunk."""

    __slots__ = ("chunk", "entries", "files", "folder", "made", "number")

    def __init__(self, folder: LayerFolder, chunk: memoryview, number: int) -> None:
        self.folder = folder
        self.chunk = chunk
        self.number = number
        self.made = 0  # files
        self.entries: list[Entry] = []
        self.files: list[tuple[bytes, int, int, int, int, int, int, int]] = []


class Files:
    """Makes files behind, until it is left; ``make`` makes one that the part in C cannot."""

    def __init__(self, metadata: LayerMetadata, stream: TarStream, make: Make) -> None:
        self._metadata = metadata
        self._stream = stream
        self._make = make
        self._batch: _Batch | None = None
        self._pending: set[tuple[LayerFolder, bytes]] = set()  # and some that are made by now
        self._queued = self._made = 0  # the last batch's number
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._others = bytearray(_MARKS)
        self._undone: list[_Item] = []  # from the first file that could not be made
        self._ended = False
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
            or self._may_replace(folder, name)
        ):
            return False
        uid = gid = _AS_MADE
        if not self._metadata.is_owned(folder, entry):
            if not self._metadata.powerful:
                return False
            uid, gid = entry.uid, entry.gid
        batch = self._batch
        if batch is None or batch.folder is not folder or len(batch.files) == _MOST:
            self._flush()
            self._queued = folder.batch = self._queued + 1
            batch = self._batch = _Batch(folder, stream.view, self._queued)
        batch.entries.append(entry)
        batch.files.append((name, at, size, entry.mode, uid, gid, entry.atime, entry.mtime))
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
        if self._made >= (self._queued if folder is None else folder.batch):
            return False
        if self._thread is None or (self._batch is not None and self._made == self._queued - 1):
            self._make_now()
            return True
        self._flush()
        reached = threading.Lock()
        reached.acquire()
        self._queue.put(reached)
        reached.acquire()
        self._redo()
        return True

    def release(self, free: Callable[[], None]) -> None:
        """Call ``free`` when no file needs the chunk at hand any more."""
        self._flush()
        if self._thread is None:
            free()
            if _make_files is not None and shared_pool().is_free():
                self._thread = threading.Thread(target=self._make_all, name="reflayer-files")
                try:
                    self._thread.start()
                except RuntimeError:  # no more threads for this user
                    self._thread = None
            return
        self._queue.put(free)
        if len(self._pending) > _MOST_PENDING:
            self.settle()

    def _flush(self) -> None:
        if self._batch is None:
            return
        if self._thread is None:
            self._make_now()
        else:
            self._queue.put(self._batch)
            self._batch = None

    def _make_now(self) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            self._make_batch(batch)
        self._redo()

    def _make_all(self) -> None:
        pool = shared_pool()
        is_taken = pool.take()
        try:
            while (item := self._queue.get()) is not None and not self._ended:
                if isinstance(item, LockType):
                    item.release()
                elif self._undone:
                    self._undone.append(item)
                elif isinstance(item, _Batch):
                    self._make_batch(item)
                else:
                    item()
        finally:
            if is_taken:
                pool.give_back()

    def _make_batch(self, batch: _Batch) -> None:
        try:
            made = _make_files(
                batch.folder.fd, batch.chunk, self._metadata.withheld, tuple(batch.files)
            )
            for file, entry in zip(batch.files[:made], batch.entries, strict=False):
                for attribute, value in entry.attributes.items() if entry.attributes else ():
                    path = path_at(batch.folder.fd, file[0])
                    os.setxattr(path, attribute, value, follow_symlinks=False)
                batch.made += 1
        except Exception:  # such as a time beyond 64 bits, of which ``make`` will tell
            pass
        if batch.made < len(batch.files):
            self._undone.append(batch)
        else:
            self._made = batch.number

    def _redo(self) -> None:
        """Do what is undone; nothing is in the queue."""
        undone, self._undone = self._undone, []
        self._made = self._queued
        self._pending.clear()
        for item in undone:
            if isinstance(item, _Batch):
                for file, entry in list(zip(item.files, item.entries, strict=True))[item.made :]:
                    name, at, size, *_ = file
                    self._make(item.folder, name, entry, item.chunk[at : at + size])
            elif not isinstance(item, LockType):
                item()


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
