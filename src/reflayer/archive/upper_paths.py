"""The paths that a layer's own entries have made, which its whiteouts must leave alone."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from reflayer.archive.layer_metadata import Key, LayerFolder

_UP = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # also where this user may not read


class UpperPaths:
    """The paths that a layer's own entries have made, which its whiteouts must leave alone.

    Only those in folders of lower layers are kept, by folder: a folder that the layer itself has
    made holds nothing else. For a layer on an empty root nothing is kept, since there is nothing to
    hide.
    """

    def __init__(self, root: os.stat_result, everything: bool) -> None:
        self.everything = everything  # the root was empty, so that all came from this layer
        self.opaque: set[Key] = set()  # lower folders with nothing left but what this layer made
        self._device = root.st_dev
        self._new: set[Key] = set()
        self._names: dict[Key, set[bytes]] = {root.st_ino: set()}

    def key(self, status: os.stat_result) -> Key:
        """What tells the folder with ``status`` from every other beneath the root."""
        if status.st_dev == self._device:
            return status.st_ino
        return status.st_dev, status.st_ino

    def names_in(self, key: Key) -> set[bytes] | None:
        """The names that were made in a folder; None where all were."""
        if self.everything or key in self._new:
            return None
        return self._names.get(key, set())

    def has_lower_folder(self, key: Key) -> bool:
        """Whether a lower layer's folder has an entry in this layer, or beneath it."""
        return key in self._names

    def add_folder(self, key: Key) -> None:
        """A folder has been made; an older one with its inode number is no more."""
        if not self.everything:
            self.drop(key)
            self._new.add(key)

    def drop(self, key: Key) -> None:
        """There is no older folder with that inode number any more."""
        self._new.discard(key)
        self.opaque.discard(key)
        self._names.pop(key, None)

    def add(self, folder: LayerFolder, name: bytes) -> None:
        """``name`` has been made in ``folder``."""
        if folder.made is not None:
            self.touch(folder)
            folder.made.add(name)

    def touch(self, folder: LayerFolder) -> None:
        """``folder`` has an entry of its own or in it, and so do those above it beneath."""
        if folder.made is None or self._names.get(folder.key) is folder.made:
            return
        self._names[folder.key] = folder.made
        fd = os.dup(folder.fd)
        try:
            while True:
                above = os.open("..", _UP, dir_fd=fd)
                os.close(fd)
                fd = above
                key_above = self.key(os.fstat(fd))
                if key_above in self._names or key_above in self._new:
                    return
                self._names[key_above] = set()
        finally:
            os.close(fd)


class UnionPaths(UpperPaths):
    """The paths that a layer's own entries have made, among all that stand in the root.

    A folder that was copied up is a lower layer's, as any is when a layer is applied in place.
    """

    def __init__(self, root: os.stat_result, forget: Callable[[], None]) -> None:
        """``forget`` is called when something is made where paths may have led through a link."""
        super().__init__(root, everything=False)
        self.lower_files: set[tuple[Key, bytes]] = set()  # that were copied up
        self.guessed: set[Key] = set()  # lower folders that nobody has seen yet
        self._watched: set[bytes] = set()
        self._forget = forget

    def watch(self, names: list[bytes]) -> None:
        """``names`` lead to a link of lower layers."""
        self._watched.update(names)

    def has_entries(self, key: Key) -> bool:
        """Whether a folder has an entry in this layer, or beneath it."""
        return self.names_in(key) is None or self.has_lower_folder(key)

    def drop(self, key: Key) -> None:
        super().drop(key)
        self.guessed.discard(key)

    def add_lower_folder(self, folder: LayerFolder) -> None:
        """A folder has been copied up; an older one with its inode number is no more."""
        self.drop(folder.key)
        folder.made = self.names_in(folder.key)

    def add_entry(self, folder: LayerFolder) -> None:
        """A folder that was copied up has an entry in this layer."""
        self._new.add(folder.key)
        self._names.pop(folder.key, None)
        self.guessed.discard(folder.key)
        folder.made = None

    def add_lower_file(self, folder: LayerFolder, name: bytes) -> None:
        """A file has been copied up."""
        self.lower_files.add((folder.key, name))
        self._watched.add(name)

    def add(self, folder: LayerFolder, name: bytes) -> None:
        super().add(folder, name)
        if name in self._watched:
            self.lower_files.discard((folder.key, name))
            self._forget()
