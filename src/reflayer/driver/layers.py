"""The layers that are in a home: whether, where, and who refers to them."""

from __future__ import annotations

import _thread
import os
from abc import ABC, abstractmethod

from reflayer.driver.folded import folded, is_folded
from reflayer.driver.home import LAYERS
from reflayer.driver.names import checked_id, is_id
from reflayer.errors import OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reflayer.copy.paths import AnyPath


class Layers(ABC):
    """What is there of one home.

    Attributes:
        home: the home's path, absolute, without symbolic links.
    """

    def __init__(self, home: AnyPath) -> None:
        """Nothing is touched yet."""
        self.home = os.path.realpath(os.fsdecode(home))
        self._lock = _thread.allocate_lock()
        self._references: dict[str, int] = {}

    def get(self, id: str) -> str:
        """The path of layer ``id``, which counts as referenced until as many calls of ``put``.

        Raises:
            LayerError: there is no such layer, or it is no id.
        """
        path = self.path(id)
        with self._lock:
            self._references[id] = self._references.get(id, 0) + 1
        return path

    def put(self, id: str) -> None:
        """Give back a reference; it is no error where none was taken.

        Raises:
            LayerError: ``id`` is no id.
        """
        checked_id(id)
        with self._lock:
            left = self._references.get(id, 0) - 1
            if left > 0:
                self._references[id] = left
            else:
                self._references.pop(id, None)

    def path(self, id: str) -> str:
        """The path of layer ``id``.

        Raises:
            LayerError: there is no such layer, or it is no id.
            OperationError: it was folded up, and cannot be made again.
        """
        if not self._has_folder(checked_id(id)):
            self._unfold(id)
        return self._layer(id)

    def exists(self, id: str) -> bool:
        """Whether layer ``id`` is there.

        Raises:
            LayerError: it is no id.
        """
        checked_id(id)
        # Once more at the end: it may have been unfolded meanwhile.
        return self._has_folder(id) or is_folded(self.home, id) or self._has_folder(id)

    def list(self) -> list[str]:
        """The ids of all layers, sorted.

        Raises:
            OperationError: the home cannot be read.
        """
        folder = f"{self.home}/{LAYERS}"
        try:
            with os.scandir(folder) as scan:
                there = {e.name for e in scan if is_id(e.name) and _is_folder(e)}
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(folder), "list") from error
        return sorted(there.union(folded(self.home)))

    def metadata(self, id: str) -> dict[str, str]:
        """What Docker shows of layer ``id``: its ``Path``, and its ``References`` of this driver.

        Raises:
            LayerError: there is no such layer, or it is no id.
        """
        return {"Path": self.path(id), "References": str(self._references.get(id, 0))}

    def _is_referenced(self, id: str) -> bool:
        with self._lock:
            return id in self._references

    def _forget_references(self, id: str) -> None:
        """A layer that is removed has none, nor has the next one of that id."""
        with self._lock:
            self._references.pop(id, None)

    @abstractmethod
    def _unfold(self, id: str) -> None:
        """Make the folder of layer ``id``, which has none.

        Raises:
            LayerError, CopyError, OperationError: there is no such layer, or it cannot be made.
        """

    def _has_folder(self, id: str) -> bool:
        path = self._layer(id)
        return os.path.isdir(path) and not os.path.islink(path)

    def _layer(self, id: str) -> str:
        return f"{self.home}/{LAYERS}/{id}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)
