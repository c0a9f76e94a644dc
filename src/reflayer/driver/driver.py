"""The VFS graph driver: layers are plain folders, each cloned from its parent in the kernel."""

from __future__ import annotations

import _thread
import os
from contextlib import contextmanager

from reflayer.driver.behind import delete_behind
from reflayer.driver.builds import building, publish, taken
from reflayer.driver.clone import METHODS, clone_layer, empty_layer
from reflayer.driver.home import BUILDS, LAYERS, make_home
from reflayer.driver.names import checked_id, is_id
from reflayer.driver.sweep import sweep
from reflayer.driver.trash import delete_trash, discard, holds_trash
from reflayer.errors import LayerError, OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

    from reflayer.archive import Change
    from reflayer.copy import CopyReport, Pool
    from reflayer.copy.paths import AnyPath

    Progress = Callable[[int, int], None]


class Driver:
    """One home of layers; several threads may use a driver, and several processes one home.

    A layer is there whole or not at all, whatever ends the process that makes or removes it. The
    layout is that of Docker's vfs driver, which may have filled the home: ``home/dir/ID``.

    Attributes:
        home: the home's path, absolute, without symbolic links.
    """

    def __init__(
        self,
        home: AnyPath,
        *,
        method: str = "auto",
        ownership: str = "keep",
        workers: int | None = None,
        pool: Pool | None = None,
    ) -> None:
        """Open ``home``, made where it is absent, and clear what processes that died left in it.

        Args:
            home: its folder.
            method: how a layer is cloned: ``snapshot`` (btrfs), one of ``copy_tree``'s, or
                ``auto``: a snapshot where one loses nothing, else the best that ``copy_tree`` can.
            ownership: ``keep`` or ``ignore``, as for ``copy_tree``.
            workers: processes that work on a clone, as for ``copy_tree``.
            pool: helper processes that are there already, as for ``copy_tree``.

        Raises:
            OperationError: the home cannot be made or cleared.
            ValueError: ``method`` is none.
        """
        if method not in METHODS:
            raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
        self.home = os.path.realpath(os.fsdecode(home))
        self._method = method
        self._ownership = ownership
        self._workers = workers
        self._pool = pool
        self._lock = _thread.allocate_lock()
        self._references: dict[str, int] = {}
        make_home(self.home)
        sweep(self.home)
        if holds_trash(self.home):
            delete_behind(self.home)

    def create(
        self, id: str, parent: str | None = None, *, progress: Progress | None = None
    ) -> CopyReport | None:
        """Make the layer ``id``, a clone of ``parent`` or empty, on disk before it appears.

        Args:
            id: the new layer.
            parent: the layer to clone; None for an empty folder of mode 0755.
            progress: called some times a second with the entries and bytes cloned so far.

        Returns:
            The clone's report; None without a parent.

        Raises:
            LayerError: ``id`` is there already, ``parent`` is not, or one of them is no id.
            CopyError: the clone failed. Nothing of it is left.
            OperationError: another step failed. Nothing of it is left.
        """
        with self._new(id, parent, progress, durable=True) as (_, report):
            return report

    def create_read_write(
        self, id: str, parent: str | None = None, *, progress: Progress | None = None
    ) -> CopyReport | None:
        """The same for a container's own clone, which is whole but not forced to disk."""
        with self._new(id, parent, progress, durable=False) as (_, report):
            return report

    @contextmanager
    def build(
        self, id: str, parent: str | None = None, *, progress: Progress | None = None
    ) -> Iterator[str]:
        """The path of a clone of ``parent``, or of an empty folder, for the block to change.

        At the end of the block it is written out to disk and becomes the layer ``id``. If the block
        raises, it is deleted.

        Raises:
            LayerError, CopyError, OperationError: as ``create`` does.
        """
        with self._new(id, parent, progress, durable=True) as (path, _):
            yield path

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
        """
        if not self.exists(id):
            raise LayerError(f"there is no layer {id}")
        return self._layer(id)

    def exists(self, id: str) -> bool:
        """Whether layer ``id`` is there.

        Raises:
            LayerError: it is no id.
        """
        path = self._layer(checked_id(id))
        return os.path.isdir(path) and not os.path.islink(path)

    def list(self) -> list[str]:
        """The ids of all layers, sorted.

        Raises:
            OperationError: the home cannot be read.
        """
        folder = f"{self.home}/{LAYERS}"
        try:
            with os.scandir(folder) as scan:
                return sorted(e.name for e in scan if is_id(e.name) and _is_folder(e))
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(folder), "list") from error

    def remove(self, id: str, *, wait: bool = True) -> None:
        """Remove layer ``id``; it is no error where there is none. The id is free at once.

        Args:
            id: the layer.
            wait: return when all of it is deleted; otherwise a process of its own deletes it.

        Raises:
            LayerError: it is no id.
            OperationError: it cannot be moved out of the way; or, after that, not all in it can be
                deleted, and the next start or ``remove`` tries again.
        """
        if not self.exists(id):
            return
        trash = discard(self._layer(id), self.home)
        if trash is not None and wait:
            delete_trash(trash, wait=True)
        if not wait or holds_trash(self.home):
            delete_behind(self.home)

    def changes(
        self, id: str, parent: str | None = None, *, cloned: float | None = None
    ) -> Iterator[Change]:
        """What is different in layer ``id`` from ``parent``, as Docker's diff tells it.

        Args:
            id: the layer.
            parent: the layer that it was cloned from; None for an empty one.
            cloned: when the clone was complete, in seconds since the epoch by this machine's clock:
                what was not touched since need not be compared closely.

        Raises:
            LayerError: one of them is not there, or was removed meanwhile.
            OperationError: something in them cannot be read.
        """
        from reflayer.driver.diff import layer_changes

        return layer_changes(self, id, parent, cloned)

    def diff(
        self, id: str, parent: str | None = None, *, cloned: float | None = None
    ) -> BufferedReader:
        """The same as an uncompressed OCI layer, made while it is read; to be closed.

        Raises:
            LayerError, OperationError: as ``changes`` does, here or from reading.
            ArchiveError: from reading: a name cannot be in a layer.
        """
        from reflayer.driver.diff import layer_diff

        return layer_diff(self, id, parent, cloned)

    def status(self) -> dict[str, str]:
        """What Docker shows of a driver; the method that a clone takes is found out by trying.

        ``Backing Filesystem``, ``Method`` and, as ``true`` or ``false``, ``Shared Blocks``.

        Raises:
            OperationError: nothing can be made in the home.
        """
        from reflayer.driver.trial import SHARING, best_method
        from reflayer.linux.statfs import file_system_name

        builds = f"{self.home}/{BUILDS}"
        folder = _open_folder(builds)
        try:
            file_system = file_system_name(folder)
        except OSError as error:
            raise OperationError.from_os_error(error, os.fsencode(builds), "statfs") from error
        finally:
            os.close(folder)
        method = best_method(builds) if self._method == "auto" else self._method
        shared = str(method in SHARING).lower()
        return {"Backing Filesystem": file_system, "Method": method, "Shared Blocks": shared}

    def metadata(self, id: str) -> dict[str, str]:
        """What Docker shows of layer ``id``: its ``Path``, and its ``References`` of this driver.

        Raises:
            LayerError: there is no such layer, or it is no id.
        """
        return {"Path": self.path(id), "References": str(self._references.get(id, 0))}

    def _layer(self, id: str) -> str:
        return f"{self.home}/{LAYERS}/{id}"

    @contextmanager
    def _new(
        self, id: str, parent: str | None, progress: Progress | None, *, durable: bool
    ) -> Iterator[tuple[str, CopyReport | None]]:
        """Make a folder for layer ``id``, let the block fill it, and publish it after that."""
        if self.exists(id):
            raise taken(id)
        source = None if parent is None else self.path(parent)
        with building(f"{self.home}/{BUILDS}", id) as path:
            # Open from the start: syncfs(2) tells each open file the errors since it was opened.
            folder = _open_folder(f"{self.home}/{LAYERS}")
            try:
                if source is None:
                    empty_layer(path, self._method)
                    report = None
                else:
                    report = clone_layer(
                        source,
                        path,
                        method=self._method,
                        ownership=self._ownership,
                        workers=self._workers,
                        pool=self._pool,
                        progress=progress,
                    )
                yield path, report
                if durable:
                    _write_out(folder, path)
                publish(path, self._layer(id))
                if durable:
                    _write_name(folder, self._layer(id))
            finally:
                os.close(folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _open_folder(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "open") from error


def _write_out(fd: int, path: str) -> None:
    from reflayer.linux.syncfs import syncfs

    try:
        syncfs(fd)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "syncfs") from error


def _write_name(folder: int, path: str) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        raise OperationError.from_os_error(error, os.fsencode(path), "fsync") from error
