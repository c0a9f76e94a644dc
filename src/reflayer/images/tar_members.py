"""The members of a plain tar file, by name, to be read in any order and by several threads."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, NamedTuple

from reflayer.archive import entry as types
from reflayer.archive.names import clean
from reflayer.archive.tar_header import BLOCK
from reflayer.archive.tar_reader import read_entries
from reflayer.archive.tar_stream import TarStream
from reflayer.errors import ArchiveError, ImageError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from _typeshed import WriteableBuffer

    from reflayer.archive.entry import Entry

_CHUNK = 128 * BLOCK
_MOST = 100_000  # members; an image has a few for each layer
_MOST_LINKS = 40  # one to another, as in path_resolution(7)


class Member(NamedTuple):
    """Where a file's data is, in bytes; or, for a link, the member that it points to."""

    offset: int
    size: int
    target: bytes


class TarMembers:
    """What a tar file holds; of members with the same name the first."""

    def __init__(self, fd: int) -> None:
        """Read the headers of the tar that ``fd`` is, open for reading; the data is not read.

        Raises:
            ArchiveError: it is malformed.
            ImageError: it has too many members.
            OSError: it cannot be read.
        """
        self._fd = fd
        self._members = _members(fd)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, through links within the tar.

        Raises:
            ImageError: it is not there, or no file.
        """
        path = clean(os.fsencode(name))
        for _ in range(_MOST_LINKS):
            member = self._members.get(path)
            if member is None:
                break
            if not member.target:
                return Section(self._fd, member.offset, member.size)  # type: ignore[return-value]
            path = member.target
        raise ImageError(f"the archive has no file {printable(name)}")


class Section(io.RawIOBase):
    """A part of a file."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place."""
        start = (0, self._position, self._size)[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """The place."""
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read from the place on; 0 at the end (pread(2))."""
        left = max(0, self._size - self._position)
        view = memoryview(buffer)[:left]
        count = os.preadv(self._fd, [view], self._offset + self._position) if left else 0
        self._position += count
        return count


def _members(fd: int) -> dict[bytes, Member]:
    members: dict[bytes, Member] = {}
    size = os.fstat(fd).st_size
    count = start = 0
    while start >= 0:
        start, stream_start = -1, start
        chunks = _Chunks(fd, stream_start)
        stream = TarStream(chunks)
        for entry in read_entries(stream):
            count += 1
            if count > _MOST:
                raise ImageError(f"the archive has more than {_MOST} members")
            offset = chunks.start + stream.position
            end = offset + stream.left
            if end > size:
                raise ArchiveError("the archive ends in the middle of an entry", entry.name)
            member = _member(entry, offset)
            if member is not None:
                members.setdefault(clean(entry.name), member)
            if stream.left > _CHUNK:  # go on behind it without reading it
                start = end + -end % BLOCK
                break
    return members


def _member(entry: Entry, offset: int) -> Member | None:
    if entry.type == types.FILE and entry.sparse is None:
        return Member(offset, entry.size, b"")
    if entry.type == types.SYMLINK:
        return Member(0, 0, clean(os.path.join(os.path.dirname(entry.name), entry.target)))
    if entry.type == types.HARD_LINK:
        return Member(0, 0, clean(entry.target))
    return None


class _Chunks:
    """A file in chunks from a place on.

    Attributes:
        start: where the last chunk began, in bytes.
    """

    def __init__(self, fd: int, start: int) -> None:
        self.start = start
        self._fd = fd
        self._next = start

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        data = os.pread(self._fd, _CHUNK, self._next)
        if not data:
            raise StopIteration
        self.start = self._next
        self._next += len(data)
        return memoryview(data)
