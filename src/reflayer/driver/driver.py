"""The VFS graph driver: layers are plain folders, each cloned from its parent in the kernel."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from functools import cached_property

from reflayer.driver.builds import taken
from reflayer.driver.clone import METHODS
from reflayer.driver.cloned import cloned_at, forget
from reflayer.driver.folded import (
    drop,
    fold_into,
    folding,
    parent_of,
    sweep_folded,
    unfold,
    unfold_upon,
)
from reflayer.driver.home import BUILDS, make_home
from reflayer.driver.layers import Layers
from reflayer.driver.making import Making, making
from reflayer.driver.names import checked_id
from reflayer.driver.sweep import sweep
from reflayer.driver.trash import (
    delete_behind,
    delete_trash,
    discard,
    empty_trash,
    holds_trash,
)
from reflayer.errors import LayerError, OperationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader
    from typing import BinaryIO

    from reflayer.archive import Change, IdMap, Usage
    from reflayer.copy import CopyReport
    from reflayer.copy.paths import AnyPath
    from reflayer.progress import Progress


class Driver(Layers):
    """One home of layers; several threads may use a driver, and several processes one home.

    A layer is there whole or not at all, whatever ends the process that makes or removes it. The
    layout is that of Docker's vfs driver, which may have filled the home: ``home/dir/ID``.
    """

    def __init__(
        self,
        home: AnyPath,
        *,
        method: str = "auto",
        ownership: str = "keep",
        workers: int | None = None,
        id_map: IdMap | None = None,
        size: int | None = None,
    ) -> None:
        """Open ``home``, made where it is absent, and clear what processes that died left in it.

        Args:
            home: its folder.
            method: how a layer is cloned: ``snapshot`` (btrfs), one of ``copy_tree``'s, or
                ``auto``: a snapshot where one loses nothing, else the best that ``copy_tree`` can.
            ownership: ``keep`` or ``ignore``, as for ``copy_tree``.
            workers: threads that work on a clone, as for ``copy_tree``.
            id_map: containers' ids and those of the host, which layers have on disk: ``apply`` and
                ``diff`` convert them. The group of containers' root may pass through the home.
            size: bytes that a container's layer may take; None or 0 for any number.

        Raises:
            OperationError: the home cannot be made or cleared.
            QuotaError: there is a ``size``, but the file system has no quotas for it.
            ArchiveError: ``id_map`` has no root.
            ValueError: ``method`` is none.
        """
        if method not in METHODS:
            raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
        super().__init__(home)
        self._making = Making(self.home, method, ownership, workers, id_map, size or 0)
        make_home(self.home, None if id_map is None else id_map.root[1])
        if size:
            from reflayer.driver.quota import require_quota

            require_quota(f"{self.home}/{BUILDS}")
        try:
            sweep(self.home)
            sweep_folded(self.home)
            if holds_trash(self.home):
                delete_behind(self.home)
        except OperationError as error:
            if error.errno != errno.EROFS:  # there it can be read as it is
                raise

    def create(
        self, id: str, parent: str | None = None, *, progress: Progress | None = None
    ) -> CopyReport | None:
        """Make the layer ``id``, a clone of ``parent`` or empty, on disk before it appears.

        Args:
            id: the new layer.
            parent: the layer to clone; None for an empty folder of mode 0755.
            progress: called some times a second with ``clone`` and the entries so far.

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
        self,
        id: str,
        parent: str | None = None,
        *,
        size: int | None = None,
        mount_label: str = "",
        progress: Progress | None = None,
    ) -> CopyReport | None:
        """The same for a container's own clone, which is whole but not forced to disk.

        Args:
            id: the new layer.
            parent: the layer to clone; None for an empty folder of mode 0755.
            size: bytes that it may take, 0 for any number; None for the driver's ``size``. What it
                has from its parent counts too, and is an error if it is more.
            mount_label: the SELinux label of its root; of no effect where the kernel has none.
            progress: called some times a second with ``clone`` and the entries so far.

        Raises:
            LayerError, CopyError, OperationError: as ``create`` does.
            QuotaError: there is a size, but the file system has no quotas for it.
        """
        size = self._making.size if size is None else size
        with self._new(id, parent, progress, size=size, label=mount_label) as (_, report):
            return report

    def take_over(self, id: str, parent: str, *, mount_label: str = "") -> bool:
        """Make the folder of layer ``parent`` that of the new container's layer ``id``.

        ``parent`` stays a layer as it was: what is different in it from the one that it was cloned
        from is kept, and makes it again when somebody asks for it. So ``id`` costs no second clone.

        Args:
            id: the new layer.
            parent: the layer that ``id`` would be a clone of, which nobody uses as a folder now.
            mount_label: as for ``create_read_write``.

        Returns:
            Whether it was done; where False, nothing was, and ``create_read_write`` is the way. It
            is not done where layers are snapshots or have a quota, where it is not known what
            ``parent`` was cloned from, or where much was changed in it since.

        Raises:
            LayerError: ``id`` is there already, ``parent`` is not, or one of them is no id.
            OperationError: it failed. ``parent`` is there still.
        """
        if self.exists(id):
            raise taken(id)
        if not self._has_folder(checked_id(parent)):
            self._unfold(parent)
        if self._making.size or self._is_referenced(parent):
            return False
        return fold_into(self._making, id, parent, mount_label)

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

    @contextmanager
    def writing_back(self, path: str) -> Iterator[Callable[[int], None]]:
        """For the block of ``build``, which has ``path``: what comes goes to the disk meanwhile.

        Much is better not left to the end of ``build``, where it has to be waited for.

        Yields:
            What is to be told, now and then, how many bytes have come.

        Raises:
            OperationError: something could not be written.
        """
        from reflayer.driver.durable import open_folder
        from reflayer.driver.write_back import writing_back

        folder = open_folder(path)
        try:
            with writing_back(folder, path) as told:
                yield told
        finally:
            os.close(folder)

    def remove(self, id: str, *, wait: bool = True) -> None:
        """Remove layer ``id``; it is no error where there is none. The id is free at once.

        Args:
            id: the layer.
            wait: return when all of it is deleted; otherwise a process of its own deletes it.

        Raises:
            LayerError: it is no id.
            OperationError: something is mounted in it, or it cannot be moved out of the way; or,
                after that, not all in it can be deleted, and the next start or ``remove`` tries
                again.
        """
        from reflayer.copy.mounts import refuse_mounts_at

        if not self.exists(id):
            return
        path = os.fsencode(self._layer(id))
        try:
            refuse_mounts_at(path, path)
        except OSError as error:
            raise OperationError.from_os_error(error, path, "look for mounts") from error
        forget(self.home, id)
        self._forget_references(id)
        with folding(self.home):
            unfold_upon(self._making, id)
            drop(self.home, id)
            trash = discard(self._layer(id), self.home)
        if trash is not None and wait:
            delete_trash(trash, wait=True)
        if not wait or holds_trash(self.home):
            delete_behind(self.home)

    def empty_trash(self) -> None:
        """Return when all that was removed is deleted, whoever is at it.

        Raises:
            OperationError: the first thing that cannot be deleted; everything else is.
        """
        empty_trash(self.home, wait=True)

    def changes(self, id: str, parent: str | None = None) -> Iterator[Change]:
        """What is different in layer ``id`` from ``parent``, as Docker's diff tells it.

        Args:
            id: the layer.
            parent: the layer that it was cloned from; None for an empty one.

        Raises:
            LayerError: one of them is not there, or was removed meanwhile.
            OperationError: something in them cannot be read.
        """
        from reflayer.driver.diff import layer_changes

        return layer_changes(self, id, parent)

    def diff(self, id: str, parent: str | None = None) -> BufferedReader:
        """The same as an uncompressed OCI layer, made while it is read; to be closed.

        Raises:
            LayerError, OperationError: as ``changes`` does, here or from reading.
            ArchiveError: from reading: a name cannot be in a layer, or an id not in a container.
        """
        from reflayer.driver.diff import layer_diff

        return layer_diff(self, id, parent, self._making.id_map)

    def diff_size(self, id: str, parent: str | None = None) -> int:
        """The bytes of the files that are different in layer ``id`` from ``parent``, as in Docker.

        Each file's size counts, holes too, but once for all of its names; deletions do not.

        Raises:
            LayerError, OperationError: as ``changes`` does.
        """
        from reflayer.driver.diff import layer_size

        return layer_size(self, id, parent)

    def usage(self, id: str, parent: str | None = None) -> Usage:
        """What layer ``id`` takes itself, as far as the method of the home's clones tells that.

        Where clones share their parents' blocks that is what is different from ``parent``, else all
        of it.

        Raises:
            LayerError, OperationError: as ``changes`` does.
        """
        from reflayer.driver.diff import layer_usage

        return layer_usage(self, id, parent if self._shares_blocks else None)

    def apply(self, id: str, stream: BinaryIO, *, progress: Progress | None = None) -> int:
        """Apply the layer archive ``stream`` to layer ``id``, and write it out to disk.

        Until that is done the layer is not there, and after a failure or crash it is no more.

        Args:
            id: the layer: a clone of the one below that the archive is made for, or an empty one.
            stream: a tar, plain or compressed as ``apply_layer`` takes it, read to its end.
            progress: called now and then with ``unpack`` and the bytes read so far; what it
                raises ends the work.

        Returns:
            The sum of the sizes of all files in the archive, as Docker tells it.

        Raises:
            LayerError: there is no such layer, or it is no id.
            ArchiveError: the archive is damaged or asks for what cannot be.
            OperationError: the system could not do it.
        """
        from reflayer.driver.apply import apply_to_layer

        self.path(id)
        return apply_to_layer(self._making, id, stream, progress)

    def sync(self, id: str) -> None:
        """Write out to disk layer ``id``, which others have filled by its path.

        Raises:
            LayerError: there is no such layer, or it is no id.
            OperationError: something could not be written.
        """
        from reflayer.driver.durable import open_folder, write_out

        path = self.path(id)
        folder = open_folder(path)
        try:
            write_out(folder, path)
        finally:
            os.close(folder)

    def cloned(self, id: str, parent: str) -> float | None:
        """When layer ``id`` was a complete clone of ``parent``, in seconds since the epoch.

        None where that is not known, or does not tell what was touched since then.

        Raises:
            LayerError: there is no layer ``id``, or one of them is no id.
            OperationError: it cannot be found out.
        """
        return cloned_at(self.home, id, self.path(id), checked_id(parent))

    def status(self) -> dict[str, str]:
        """What Docker shows of a driver; the method that a clone takes is found out by trying.

        ``Backing Filesystem``, ``Method`` and, as ``true`` or ``false``, ``Shared Blocks``.

        Raises:
            OperationError: nothing can be made in the home.
        """
        from reflayer.driver.trial import status

        return status(self.home, self._making.method)

    def _unfold(self, id: str) -> None:
        with folding(self.home):
            parent = parent_of(self.home, id)
            if self._has_folder(id):  # somebody else was faster
                return
            if parent is None:
                raise LayerError(f"there is no layer {id}")
            unfold(self._making, id)

    @cached_property
    def _shares_blocks(self) -> bool:
        return self.status()["Shared Blocks"] == "true"

    @contextmanager
    def _new(
        self,
        id: str,
        parent: str | None,
        progress: Progress | None,
        *,
        durable: bool = False,
        size: int = 0,
        label: str = "",
    ) -> Iterator[tuple[str, CopyReport | None]]:
        if self.exists(id):
            raise taken(id)
        if parent is not None:
            self.path(parent)
        how = self._making
        with making(how, id, parent, progress, durable=durable, size=size, label=label) as made:
            yield made
