"""A difference that is being made of what stands in open folders."""

from __future__ import annotations

import os

from reflayer.copy.method import LADDER, Method
from reflayer.linux.names import native
from reflayer.walk.metadata import Metadata, NewInode
from reflayer.walk.overlay import Marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from reflayer.walk.id_map import Conversion

_clone_names: Any = getattr(native, "clone_names", None)
_REFLINK = LADDER.index("reflink")


class Upper:
    """The folder of a difference, with what makes something in it.

    Attributes:
        fd: the folder, open.
        method: how content is copied.
        metadata: how metadata is set.
        marks: what tells a difference from a tree.
    """

    def __init__(self, fd: int, method: str, ownership: str, ids: Conversion | None = None) -> None:
        """Prepare the empty folder; the caller closes it. ``ids`` are those of what it gets."""
        self.fd = fd
        self.method = Method(method)
        self.metadata = Metadata(ownership)
        self.marks = Marks(fd)
        os.chmod(fd, 0o700)
        self._new = NewInode(fd)
        self._ids = (b"", b"") if ids is None else ids.packed()

    def clones(self, folder: int) -> bool:
        """Whether the part in C is there, and content of an open folder shares its blocks."""
        return _clone_names is not None and self.method.on(os.fstat(folder).st_dev) == "reflink"

    def clone_some(self, src: int, dst: int, left: bytes) -> Any:
        """As ``clone_names`` of the part in C."""
        new = self._new
        owner = (new.uid, new.gid, *self._ids)
        return _clone_names(src, dst, _REFLINK, *owner, new.umask, 0o700, b"", left)
