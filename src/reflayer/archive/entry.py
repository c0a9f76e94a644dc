"""One entry of a tar, with all that its headers say of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from reflayer.archive.sparse import SparseMap

FILE = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHAR = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"

NO_ATTRIBUTES: Mapping[str, bytes] = {}


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
