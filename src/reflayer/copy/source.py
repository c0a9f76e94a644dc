"""What is copied: one folder, or a stack of them, the layers, each open."""

from __future__ import annotations

import errno
import os
import sys

from reflayer.errors import CopyError, failing
from reflayer.walk.facts import FailedError
from reflayer.walk.folders import OPEN_ANY_FOLDER, identity, open_beneath, open_noatime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.walk.facts import Facts
    from reflayer.walk.id_map import Conversion
    from reflayer.walk.stack import AnyStack


class Source:
    """The layers of what is copied, open, the topmost first; a single folder is one layer.

    Attributes:
        paths: as the user named them, for errors.
        roots: their descriptors.
        differences: how many of them are differences.
        strict: whether a whiteout in the lowest is an error.
        ids: what makes the owners in the tree of those in the layers; None: they are the same.
    """

    def __init__(self, source: AnyStack, cross_mounts: bool) -> None:
        """Open the layers.

        Raises:
            CopyError: one of them cannot be opened.
            ValueError: it is an empty sequence.
        """
        self._cross_mounts = cross_mounts
        self.roots: list[int] = []
        self.strict = False
        self.ids: Conversion | None = None
        if isinstance(source, (str, bytes, os.PathLike)):
            self.paths: tuple[bytes, ...] = (os.fsencode(source),)
        else:
            from reflayer.walk.stack import Stack, stack_of

            stack = stack_of(source)
            self.paths, self.ids = stack.paths, stack.ids
            self.strict = not isinstance(source, Stack)
        self.differences = len(self.paths) - 1
        try:
            for path in self.paths:
                self.roots.append(_open_root(path))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the layers."""
        while self.roots:
            os.close(self.roots.pop())

    def path_below(self, path: bytes) -> bytes:
        """The path from its layer's root of what an error names."""
        above = [root for root in self.paths if path.startswith(root)]
        return path[len(max(above, key=len, default=b"")) :].lstrip(b"/")

    def has_whiteouts(self, layer: int) -> bool:
        """Whether a device 0:0 in a layer is a whiteout, and not one of the tree."""
        return layer < self.differences or self.strict

    def packed(self, layers: list[int]) -> bytes:
        """The descriptors of some, for the part in C."""
        roots = self.roots
        return b"".join([roots[layer].to_bytes(4, sys.byteorder) for layer in layers])

    def open(self, layer: int, path: bytes) -> tuple[int, bool]:
        """Open the folder at ``path`` in a layer; whether it is one of a mount to stay out of."""
        root = self.roots[layer]
        try:
            return open_beneath(root, path, cross_mounts=self._cross_mounts), False
        except OSError as error:
            if error.errno != errno.EXDEV or self._cross_mounts:
                raise
        return open_beneath(root, path), True

    def open_again(self, layer: int, path: bytes, status: os.stat_result) -> int:
        """Open a folder again that had ``status``.

        Raises:
            OSError: ESTALE when it is another one now.
        """
        fd = open_beneath(self.roots[layer], path)
        if identity(os.fstat(fd)) != identity(status):
            os.close(fd)
            raise OSError(errno.ESTALE, "the folder was moved meanwhile")
        return fd

    def tree_names(self, layer: int, attributes: list[str]) -> list[str]:
        """Those attributes of a file or folder in a layer that it has in the tree, too.

        Raises:
            FailedError: the file or folder is not all there is of it.
        """
        if not attributes or layer >= self.differences:
            return attributes
        from reflayer.walk.overlay import tree_names

        try:
            return tree_names(attributes)
        except OSError as error:
            raise FailedError("copy", error) from error

    def tree_attributes(self, layer: int, attributes: dict[str, bytes]) -> dict[str, bytes]:
        """The attributes in the tree of what has ``attributes`` in a layer.

        Raises:
            FailedError: one of the ids in them has none that stands for it.
        """
        if not attributes:
            return attributes
        if layer < self.differences:
            from reflayer.walk.overlay import tree_attributes

            attributes = tree_attributes(attributes)
        if self.ids is None:
            return attributes
        from reflayer.walk.id_map import converted_attributes

        return converted_attributes(self.ids, attributes)

    def owned(self, status: os.stat_result) -> os.stat_result:
        """``status`` with the owners in the tree; FailedError where one has none."""
        if self.ids is None:
            return status
        from reflayer.walk.id_map import converted_status

        return converted_status(self.ids, status)

    def status(self, layer: int, folder: int, name: bytes) -> os.stat_result:
        """The status in the tree of ``name``, no whiteout, in an open folder of a layer."""
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if layer < self.differences:
            from reflayer.walk.stack import tree_status

            status = tree_status(folder, name, status)
        return self.owned(status)

    def is_device(self, layer: int, attributes: list[str]) -> bool:
        """Whether an empty file with these attributes in a layer stands for a device 0:0."""
        if layer >= self.differences:
            return False
        from reflayer.walk.overlay import is_device

        return is_device(attributes)


class Merged:
    """A folder that several layers have: what all who are in it share.

    Attributes:
        source: the stack.
        layers: the layers that it is filled from, the topmost first.
        facts: its metadata, which is that of the topmost, with the mode to be set next.
        mode: the permission bits that it has in the tree.
        found: the child folders of all layers but the last, each with the layers that have it.
        waiting: the names of those, until the folder is filled.
        hidden: names that no layer below may show.
        has_others: whether the layers above the one that is read now have others than those.
        above: all names that these have then, and none otherwise.
    """

    __slots__ = (
        "above", "facts", "found", "has_others", "hidden", "layers", "mode", "source", "waiting",
    )  # fmt: skip

    def __init__(self, source: Source, layers: list[int], facts: Facts) -> None:
        self.source = source
        self.layers = layers
        self.facts = facts
        self.mode = facts.mode
        self.found: dict[bytes, list[int]] = {}
        self.waiting: list[bytes] = []
        self.hidden: set[bytes] = set()
        self.has_others = False
        self.above: set[bytes] = set()

    def end_with(self, layer: int) -> None:
        """One of its layers hides all below."""
        del self.layers[self.layers.index(layer) + 1 :]


def _open_root(path: bytes) -> int:
    with failing(path, "open", CopyError):
        try:
            return open_noatime(path, None, OPEN_ANY_FOLDER)
        except NotADirectoryError as error:
            raise CopyError(path, "open", "the source is not a folder", error.errno) from error
