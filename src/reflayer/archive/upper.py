"""A difference that is being made of what stands in open folders."""

from __future__ import annotations

import os

from reflayer.copy.method import LADDER, Method
from reflayer.linux.names import listed, names_listed, native
from reflayer.walk.metadata import Metadata, NewInode
from reflayer.walk.overlay import Marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from reflayer.walk.id_map import Conversion

_clone_names: Any = getattr(native, "clone_names", None)


class Upper:
    """The folder of a difference, with what makes something in it.

    Attributes:
        fd: the folder, open.
        method: how content is copied.
        metadata: how metadata is set.
        marks: what tells a difference from a tree.
        names: how many ``clone_names`` has made itself.
        size: bytes of the files among them.
    """

    def __init__(self, fd: int, method: str, ownership: str, ids: Conversion | None = None) -> None:
        """Prepare the empty folder; the caller closes it. ``ids`` are those of what it gets."""
        self.fd = fd
        self.method = Method(method)
        self.metadata = Metadata(ownership)
        self.marks = Marks(fd)
        self.names = self.size = 0
        os.chmod(fd, 0o700)
        self._new = NewInode(fd)
        self._ids = (b"", b"") if ids is None else ids.packed()

    def clone_names(
        self, src: int, dst: int, names: Iterable[tuple[int, bytes]]
    ) -> Iterator[bytes]:
        """Make in ``dst`` those of an open folder's names that are ordinary, by the part in C.

        Args:
            src: the folder.
            dst: its counterpart.
            names: with their types, as a listing has them.

        Yields:
            The others, which the caller is to make before it asks for the next.
        """
        if _clone_names is None:
            yield from (name for _, name in names)
            return
        device, new = os.fstat(src).st_dev, self._new
        owner = (new.uid, new.gid, *self._ids)
        method = self.method.on(device)
        for piece in listed(names):
            left = piece
            while left:
                if self.method.on(device) != method:  # for which more may have to be done before
                    yield from names_listed(left)
                    break
                (files, _, links, _, size), _, others, left = _clone_names(
                    src, dst, -1, LADDER.index(method), *owner, new.umask, 0o700, b"", left
                )
                self.names += files + links
                self.size += size
                yield from (name for _, name in others)
