"""``tar:FILE``, a root file system's tar as an image of one layer; and tars that hold images.

Their members are read by name, in any order and by several threads.
"""

from __future__ import annotations

import io
import os
import stat
from bisect import bisect_right
from contextlib import contextmanager
from hashlib import sha256
from io import FileIO
from operator import itemgetter
from typing import NamedTuple

from reflayer.archive import tar_header as types
from reflayer.archive.compression import Blob, PlainReader, ReadAhead, compression_of
from reflayer.archive.tar_header import BLOCK, clean_path, is_header
from reflayer.archive.tar_reader import TarStream, read_entries
from reflayer.errors import ArchiveError, ImageError, brief, failing, printable
from reflayer.images.build.layer import add_layer
from reflayer.images.build.manifest import add_image, config_of
from reflayer.images.content.blob_store import open_regular
from reflayer.images.content.source import Source, file_stamp
from reflayer.images.content.temp_file import fill, write_all
from reflayer.images.model.descriptor import LAYER_TYPES, Descriptor, digest_text
from reflayer.images.model.platform import Platform
from reflayer.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from _typeshed import WriteableBuffer

    from reflayer.archive.tar_header import Entry, SparseMap
    from reflayer.images.content.blob_store import BlobStore
    from reflayer.images.content.source import Fetched
    from reflayer.progress import Progress

    Piece = tuple[int, int, int]  # its start and its place in the archive, and its length

_CHUNK = 128 * BLOCK
_MOST = 100_000  # members; an image has a few for each layer
_MOST_LINKS = 40  # one to another, as in path_resolution(7)
_MOST_HOLES = 1 << 29  # bytes of zeros that no data stands for, and
_MOST_TIMES = 1 << 10  # so many for each byte of the archive, as gzip can make of one


@record
class TarImage(Source):
    """The tar ``path``, in any usual compression; ``-`` is standard input.

    The same file is always the same image.
    """

    path: str

    @property
    def name(self) -> str:
        return f"tar:{self.path}"

    def stamp(self) -> str:
        if self.path == "-":
            return ""
        with failing(self.path, "stat"):
            return file_stamp(self.path)

    def _fetch(
        self, content: BlobStore, platform: Platform | None, progress: Progress | None
    ) -> Fetched:
        with failing(self.path, "open"):
            file = standard_input() if self.path == "-" else FileIO(self.path)
        with file:
            try:
                layer, diff_id = _add(content, file, progress)
            except ArchiveError as error:
                raise ImageError(f"{in_words(self.path)}: {error}") from error
        config = config_of(platform or Platform.of_machine(), diff_id)
        return add_image(content, config, (layer,)), (self.name,)


def _add(content: BlobStore, file: BinaryIO, progress: Progress | None) -> tuple[Descriptor, str]:
    """Add the layer, as it is where OCI has a media type for it, else plain; and its diff id."""
    with content.temp_file() as kept:
        size = fill(kept.fd, file, None)
        os.lseek(kept.fd, 0, os.SEEK_SET)
        hashing = sha256()
        blob = Blob(FileIO(kept.fd, closefd=False), hashing, size)
        reader = PlainReader(blob)
        with ReadAhead(reader, None) as ahead:
            chunks = _checked(ahead, blob, progress, size)
            if reader.compression not in LAYER_TYPES:
                added = add_layer(content, chunks, "none", None)
                return added.layer, added.diff_id
            # The digest of a plain tar is its diff id.
            plain = None if reader.compression == "none" else sha256()
            for chunk in chunks:
                if plain is not None:
                    plain.update(chunk)
        digest = digest_text(hashing)
        content.commit(kept, digest)
        layer = Descriptor(LAYER_TYPES[reader.compression], digest, size)
        return layer, digest_text(plain) if plain is not None else digest


def _checked(
    ahead: ReadAhead, blob: Blob, progress: Progress | None, size: int
) -> Iterator[memoryview]:
    """The chunks of ``ahead``, which are a tar's, with ``progress`` called at each."""
    for chunk in ahead:
        if ahead.count == len(chunk) and not is_header(bytes(chunk[:BLOCK])):
            raise ArchiveError("it is not a tar")
        if progress is not None:
            progress("fetch", blob.count, size)
        yield chunk
    if progress is not None:
        progress("fetch", blob.count, size)


class Member(NamedTuple):
    """Where a file's data is, in bytes; or, for a link, the member that it points to."""

    offset: int
    size: int
    target: bytes
    sparse: SparseMap | None


@contextmanager
def archive_members(
    path: str, content: BlobStore, progress: Progress | None
) -> Iterator[TarMembers]:
    """The members of the archive ``path``, or ``-`` for standard input.

    One that is compressed, or a stream, takes the space of a plain one in ``content`` meanwhile.
    """
    with opened_archive(path) as (file, compression):
        if compression == "none":
            yield TarMembers(file.fileno())
            return
        with content.temp_file() as spool:
            blob = Blob(file, None, None)
            size = os.fstat(file.fileno()).st_size or None
            with ReadAhead(PlainReader(blob), None) as ahead:
                for chunk in ahead:
                    write_all(spool.fd, chunk)
                    if progress is not None:
                        progress("fetch", blob.count, size)
            yield TarMembers(spool.fd)


@contextmanager
def opened_archive(path: str) -> Iterator[tuple[BinaryIO, str]]:
    """The archive, and its compression; ``unknown`` of a stream."""
    with failing(path, "open"):
        once = is_stream(path)
        if path == "-":
            file = standard_input()
        elif once:
            # Without O_NONBLOCK a FIFO that nobody writes to would block; so it is empty.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(fd, True)
            file = FileIO(fd)
        else:
            file = open_regular(path)
    try:
        with file, failing(path, "read"):
            compression = "unknown"
            if not once:
                compression = compression_of(file.read(BLOCK))
                file.seek(0)
            yield file, compression
    except (ArchiveError, ImageError) as error:
        raise ImageError(f"{in_words(path)}: {error}") from error


def standard_input() -> BinaryIO:
    if os.isatty(0):
        raise ImageError("standard input is a terminal: let an archive come from it")
    return FileIO(0, closefd=False)


def is_stream(path: str) -> bool:
    """Whether an archive can be read once only: standard input, a FIFO, a pipe of the shell's."""
    return path == "-" or (os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode))


def in_words(path: str) -> str:
    return "standard input" if path == "-" else printable(path)


class TarMembers:
    """What a plain tar file holds; of members with the same name the first."""

    def __init__(self, fd: int) -> None:
        """Read the headers of the tar that ``fd`` is, open for reading; the data is not read."""
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._members = _members(fd, self._size)

    def __contains__(self, name: str) -> bool:
        return clean_path(name.encode()) in self._members

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, through links within the tar."""
        path = clean_path(name.encode())
        for _ in range(_MOST_LINKS):
            member = self._members.get(path)
            if member is None:
                break
            if not member.target:
                return _Section(self._fd, self._pieces(name, member), member.size)  # type: ignore[return-value]
            path = member.target
        raise ImageError(f"the archive has no file {brief(name)}")

    def read(self, name: str, most: int) -> bytes:
        """All of a file that has ``most`` bytes at most."""
        with self.open(name) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ImageError(f"{brief(name)} has more than {most} bytes")
        return data

    def _pieces(self, name: str, member: Member) -> list[Piece]:
        if member.sparse is None:
            return [(0, member.offset, member.size)]
        if member.size - member.sparse.stored > max(_MOST_HOLES, _MOST_TIMES * self._size):
            raise ImageError(
                f"{brief(name)} would have {member.size:,} bytes, most of them holes: make the "
                "archive without sparse files"
            )
        pieces, offset = [], member.offset
        for start, length in member.sparse:
            pieces.append((start, offset, length))
            offset += length
        return pieces


class _Section(io.RawIOBase):
    """A file of which parts are in another one, and the rest are zeros."""

    def __init__(self, fd: int, pieces: list[Piece], size: int) -> None:
        self._fd = fd
        self._pieces = pieces
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        start = (0, self._position, self._size)[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        position = self._position
        view = memoryview(buffer)[: max(0, self._size - position)]
        if not view:
            return 0
        after = bisect_right(self._pieces, position, key=itemgetter(0))
        start, offset, length = self._pieces[after - 1] if after else (0, 0, 0)
        if position < start + length:
            view = view[: start + length - position]
            count = os.preadv(self._fd, [view], offset + position - start)
        else:
            end = self._pieces[after][0] if after < len(self._pieces) else self._size
            count = min(len(view), end - position)
            view[:count] = bytes(count)
        self._position += count
        return count


def _members(fd: int, size: int) -> dict[bytes, Member]:
    # The headers are read as those of any tar, from a stream; but that would read the data, too,
    # which may be gigabytes. So behind a large member another stream is begun.
    members: dict[bytes, Member] = {}
    count = start = 0
    while start >= 0:
        chunks = _Chunks(fd, start)
        stream, start = TarStream(iter(chunks)), -1
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
                members.setdefault(clean_path(entry.name), member)
            if stream.left > _CHUNK:
                start = end + -end % BLOCK
                break
    return members


def _member(entry: Entry, offset: int) -> Member | None:
    if entry.type == types.FILE:
        size = entry.size if entry.sparse is None else entry.sparse.size
        return Member(offset, size, b"", entry.sparse)
    if entry.type == types.SYMLINK:
        target = clean_path(os.path.join(os.path.dirname(entry.name), entry.target))
        return Member(0, 0, target, None)
    if entry.type == types.HARD_LINK:
        return Member(0, 0, clean_path(entry.target), None)
    return None


class _Chunks:
    """A file in chunks from a place on; ``start`` is where the last chunk began."""

    def __init__(self, fd: int, start: int) -> None:
        self.start = start
        self._fd = fd

    def __iter__(self) -> Iterator[memoryview]:
        while data := os.pread(self._fd, _CHUNK, self.start):
            yield memoryview(data)
            self.start += len(data)
