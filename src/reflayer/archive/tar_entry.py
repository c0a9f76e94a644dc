"""One entry of a tar: its type, its facts, and where the data of a sparse file goes."""

from __future__ import annotations

import stat
from array import array

from reflayer.errors import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHAR = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"

MODES = {
    FILE: stat.S_IFREG,
    SYMLINK: stat.S_IFLNK,
    CHAR: stat.S_IFCHR,
    BLOCK_DEVICE: stat.S_IFBLK,
    DIRECTORY: stat.S_IFDIR,
    FIFO: stat.S_IFIFO,
}
"""The file type in ``st_mode`` of each but a hard link (inode(7))."""

NO_ATTRIBUTES: Mapping[str, bytes] = {}
_MOST_SPANS = 1 << 20  # 16 MiB of map


class Entry:
    """One entry.

    Attributes:
        name: as in the archive, no NUL in it; the root's may be empty.
        type: one of the types above.
        size: bytes of data in the archive.
        mode: permission bits with setuid, setgid and sticky.
        uid, gid: owner and group, -1 for those that there are.
        atime, mtime: nanoseconds since the epoch; without an access time it is ``mtime``.
        target: where a hard or symbolic link points; else empty.
        device: major and minor number.
        attributes: extended attributes by name.
        sparse: where the data goes in a sparse file; else None.
    """

    __slots__ = (
        "atime", "attributes", "device", "gid", "mode", "mtime", "name", "size", "sparse", "target",
        "type", "uid",
    )  # fmt: skip

    def __init__(
        self,
        name: bytes,
        type: bytes,  # noqa: A002
        size: int,
        mode: int,
        uid: int,
        gid: int,
        atime: int,
        mtime: int,
        target: bytes,
        device: tuple[int, int],
        attributes: Mapping[str, bytes],
        sparse: SparseMap | None,
    ) -> None:
        self.name = name
        self.type = type
        self.size = size
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.atime = atime
        self.mtime = mtime
        self.target = target
        self.device = device
        self.attributes = attributes
        self.sparse = sparse


class SparseMap:
    """The spans of a file that hold data, in order; all else of it are holes.

    Attributes:
        size: the file's size in bytes, holes included.
        stored: bytes of data in all spans.
    """

    __slots__ = ("_lengths", "_offsets", "size", "stored")

    def __init__(
        self, spans: Iterator[tuple[int, int]], size: int, *, is_own: bool = False
    ) -> None:
        """Take (offset, length) of each span, at most 1,048,576 of them where it is not our own."""
        if size < 0:
            raise ArchiveError(f"its real size ({size}) is out of range")
        self.size = size
        self.stored = 0
        self._offsets = array("q")
        self._lengths = array("q")
        end = 0
        for offset, length in spans:
            if offset < end or length < 0 or offset + length > size:
                raise ArchiveError("its sparse map is out of order or exceeds the file")
            if len(self._offsets) == _MOST_SPANS and not is_own:
                raise ArchiveError(f"its sparse map has more than {_MOST_SPANS} spans")
            end = offset + length
            self.stored += length
            self._offsets.append(offset)
            self._lengths.append(length)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Offset and length of each span."""
        return zip(self._offsets, self._lengths, strict=True)


def clean_path(name: bytes) -> bytes:
    """``name`` as a path from the layer's root, which itself is empty.

    ``..`` goes up one name and stops at the root, as in the tools of Docker, containerd and umoci;
    no file is looked at.
    """
    if name.startswith(b"./"):
        name = name[2:]
    if name.endswith(b"/"):
        name = name[:-1]
    if name and name[0] not in b"/." and b"//" not in name and b"/." not in name:
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def join_path(path: bytes, name: bytes) -> bytes:
    """The path of ``name`` in the folder ``path``, which is ``.`` for the root."""
    return name if path == b"." else path + b"/" + name
