"""The VFS graph driver: layers are plain folders, each cloned from its parent in the kernel."""

from __future__ import annotations

import _thread
import io
import os
from contextlib import contextmanager
from functools import cached_property

from reflayer.driver.clone_times import forget, origin
from reflayer.driver.create import METHODS, Making, changing_layer, new_layer, status
from reflayer.driver.folded import fold_into, folded, folding, is_there, unfold, unfold_upon
from reflayer.driver.home import (
    BUILDS,
    LAYERS,
    checked_id,
    has_folder,
    is_id,
    layer_path,
    make_home,
    opened,
    taken,
    write_out,
)
from reflayer.driver.recovery import recover
from reflayer.driver.trash import delete_behind, delete_trash, discard, empty_trash, left_in_trash
from reflayer.errors import LayerError, OperationError, failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from typing import BinaryIO, TypeVar

    from _typeshed import WriteableBuffer

    from reflayer.archive import Change, IdMap, Usage
    from reflayer.copy import CopyReport
    from reflayer.progress import Progress
    from reflayer.walk.folders import AnyPath

    Item = TypeVar("Item")


class Driver:
    """One home of layers; several threads may use a driver, and several processes one home.

    A layer is there whole or not at all, whatever ends the process that makes or removes it. Every
    method raises ``LayerError`` for what is no id, and for a layer that is not there, but where it
    says otherwise; and ``OperationError`` where the system could not do it.

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
        self.home = os.path.realpath(os.fsdecode(home))
        root = None if id_map is None else id_map.root
        self._making = Making(method, ownership, workers, root)
        self._id_map = id_map
        self._size = size or 0
        self._lock = _thread.allocate_lock()
        self._references: dict[str, int] = {}
        make_home(self.home, None if root is None else root[1])
        self._require_quota(self._size)
        recover(self.home)

    def get(self, id: str) -> str:
        """The path of layer ``id``, which counts as referenced until as many calls of ``put``."""
        path = self.path(id)
        with self._lock:
            self._references[id] = self._references.get(id, 0) + 1
        return path

    def put(self, id: str) -> None:
        """Give back a reference; it is no error where none was taken."""
        checked_id(id)
        with self._lock:
            left = self._references.get(id, 0) - 1
            if left > 0:
                self._references[id] = left
            else:
                self._references.pop(id, None)

    def path(self, id: str) -> str:
        """The path of layer ``id``, which is made again first where it was folded up."""
        if not has_folder(self.home, checked_id(id)):
            unfold(self.home, id, self._remake)
        return layer_path(self.home, id)

    def exists(self, id: str) -> bool:
        """Whether layer ``id`` is there."""
        return is_there(self.home, checked_id(id))

    def list(self) -> list[str]:
        """The ids of all layers, sorted."""
        folder = f"{self.home}/{LAYERS}"
        with failing(folder, "list"), os.scandir(folder) as scan:
            there = {e.name for e in scan if is_id(e.name) and e.is_dir(follow_symlinks=False)}
        return sorted(there.union(folded(self.home)))

    def metadata(self, id: str) -> dict[str, str]:
        """What Docker shows of layer ``id``: its ``Path``, and its ``References`` here."""
        return {"Path": self.path(id), "References": str(self._references.get(id, 0))}

    def status(self) -> dict[str, str]:
        """What Docker shows of a driver; the method that a clone takes is found out by trying.

        ``Backing Filesystem``, ``Method`` and, as ``true`` or ``false``, ``Shared Blocks``.
        """
        return status(self.home, self._making.method)

    def create(
        self,
        id: str,
        parent: str | None = None,
        *,
        size: int | None = None,
        mount_label: str = "",
        progress: Progress | None = None,
    ) -> CopyReport | None:
        """Make the layer ``id``, a clone of ``parent`` or empty: whole, but not forced to disk.

        Args:
            id: the new layer.
            parent: the layer to clone; None for an empty folder of mode 0755.
            size: bytes that it may take, 0 for any number; None for the driver's ``size``. What it
                has from its parent counts too, and is an error if it is more.
            mount_label: the SELinux label of its root; of no effect where the kernel has none.
            progress: called some times a second with ``clone`` and the entries so far.

        Returns:
            The clone's report; None without a parent.

        Raises:
            LayerError: ``id`` is there already, ``parent`` is not, or one of them is no id.
            CopyError: the clone failed. Nothing of it is left.
            OperationError: another step failed. Nothing of it is left.
            QuotaError: there is a size, but the file system has no quotas for it.
        """
        size = self._size if size is None else size
        self._check_new(id, parent, size)
        with new_layer(
            self.home, id, parent, self._making, size=size, label=mount_label, progress=progress
        ) as (_, report):
            return report

    def take_over(self, id: str, parent: str, *, mount_label: str = "") -> bool:
        """Make the folder of layer ``parent`` that of the new container's layer ``id``.

        ``parent`` stays a layer as it was: what is different in it from the one that it was cloned
        from is kept, and makes it again when it is asked for. So ``id`` costs no second clone.

        Args:
            id: the new layer.
            parent: the layer that ``id`` would be a clone of, whose folder is not in use now.
            mount_label: as for ``create``.

        Returns:
            Whether it was done; where False, nothing was, and ``create`` is the way. It is not done
            where layers are snapshots or have a quota, where it is not known what ``parent`` was
            cloned from, or where much was changed in it since.

        Raises:
            LayerError: ``id`` is there already, ``parent`` is not, or one of them is no id.
            OperationError: it failed. ``parent`` is there still.
        """
        self._check_new(id, parent)
        with self._lock:
            is_used = parent in self._references
        return not self._size and not is_used and fold_into(self.home, id, parent, mount_label)

    @contextmanager
    def build(
        self, id: str, parent: str | None = None, *, progress: Progress | None = None
    ) -> Iterator[str]:
        """The path of a clone of ``parent``, or of an empty folder, for the block to change.

        At the end of the block the folder is written out to disk and becomes the layer ``id``. If
        the block raises, the folder is deleted. Errors are those of ``create``.
        """
        self._check_new(id, parent)
        making = self._making
        with new_layer(self.home, id, parent, making, progress=progress, durable=True) as (path, _):
            yield path

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
            ArchiveError: the archive is damaged or asks for what cannot be.
        """
        from reflayer.archive import apply_stream

        self.path(id)
        with changing_layer(self.home, id) as (path, come_to):

            def told(count: int) -> None:
                come_to(count)
                if progress is not None:
                    progress("unpack", count, None)

            return apply_stream(
                path, stream, ownership=self._making.ownership, id_map=self._id_map, progress=told
            )

    def sync(self, id: str) -> None:
        """Write out to disk layer ``id``, which others have filled by its path."""
        path = self.path(id)
        with opened(path) as folder:
            write_out(folder, path)

    def remove(self, id: str, *, wait: bool = True) -> None:
        """Remove layer ``id``; it is no error where there is none. The id is free at once.

        Args:
            id: the layer.
            wait: return when all of it is deleted; otherwise a process of its own deletes it.

        Raises:
            OperationError: something is mounted in it, or it cannot be moved out of the way; or,
                after that, not all in it can be deleted, and the next start or ``remove`` tries
                again.
        """
        from reflayer.walk.mounts import refuse_mounts_at

        if not self.exists(id):
            return
        layer = layer_path(self.home, id)
        with failing(layer, "look for mounts"):
            refuse_mounts_at(os.fsencode(layer), os.fsencode(layer))
        forget(self.home, id)
        with self._lock:  # nor has the next one of that id any
            self._references.pop(id, None)
        with folding(self.home):
            unfold_upon(self.home, id, self._remake)
            trash = discard(layer, self.home)
        if trash is not None and wait:
            delete_trash(trash, wait=True)
        if not wait or left_in_trash(self.home):
            delete_behind(self.home)

    def empty_trash(self) -> None:
        """Return when all that was removed is deleted, by this process or another.

        Raises:
            OperationError: the first thing that cannot be deleted; everything else is.
        """
        empty_trash(self.home, wait=True)

    def cloned(self, id: str, parent: str) -> float | None:
        """When layer ``id`` was a complete clone of ``parent``, in seconds since the epoch.

        None where that is not known, or does not tell what was touched since then.
        """
        checked_id(parent)
        found = origin(self.home, id, self.path(id))
        return found[1] if found is not None and found[0] == parent else None

    def changes(self, id: str, parent: str | None = None) -> Iterator[Change]:
        """What is different in layer ``id`` from ``parent``, or all in it, as in Docker's diff.

        Raises:
            LayerError: here or meanwhile: one of them is not there, or was removed.
            OperationError: something in them cannot be read.
        """
        from reflayer.archive import changes

        root, before, cloned = self._compared(id, parent)
        return self._while_there(id, parent, changes(root, before, cloned=cloned))

    def diff(self, id: str, parent: str | None = None) -> io.BufferedReader:
        """The difference of layer ``id`` from ``parent`` as an uncompressed OCI layer.

        Returns:
            A file that is made while it is read, and has to be closed. Reading raises as
            ``changes`` does, and ``ArchiveError`` for a name that cannot be in a layer, or an id
            that cannot be in a container.
        """
        from reflayer.archive import pack_layer

        root, before, cloned = self._compared(id, parent)
        packing = pack_layer(root, before, cloned=cloned, id_map=self._id_map)
        return io.BufferedReader(_Stream(self._while_there(id, parent, packing)))

    def diff_size(self, id: str, parent: str | None = None) -> int:
        """The bytes of the files that are different in layer ``id`` from ``parent``, as in Docker.

        Each file's size counts, holes too, but once for all of its names; deletions do not.
        """
        from reflayer.archive import changed_size

        root, before, cloned = self._compared(id, parent)
        with self._there(id, parent):
            return changed_size(root, before, cloned=cloned)

    def usage(self, id: str, parent: str | None = None) -> Usage:
        """What layer ``id`` takes itself, as far as the method of the home's clones tells that.

        Where clones share their parents' blocks that is what is different from ``parent``, else all
        of it.
        """
        from reflayer.archive import changed_usage

        parent = parent if self._shares_blocks else None
        root, before, cloned = self._compared(id, parent)
        with self._there(id, parent):
            return changed_usage(root, before, cloned=cloned)

    def _check_new(self, id: str, parent: str | None, size: int = 0) -> None:
        """Refuse what cannot be made, and make the folder of ``parent`` where it was folded up."""
        if self.exists(id):
            raise taken(id)
        if parent is not None:
            self.path(parent)
        self._require_quota(size)

    def _remake(self, id: str, parent: str, difference: BinaryIO) -> None:
        from reflayer.archive import apply_stream

        with new_layer(self.home, id, parent, self._making) as (path, _):
            apply_stream(path, difference, ownership=self._making.ownership)

    def _require_quota(self, size: int) -> None:
        if size:
            from reflayer.driver.quota import require_quota

            require_quota(f"{self.home}/{BUILDS}")

    def _compared(self, id: str, parent: str | None) -> tuple[str, str | None, float | None]:
        """Both paths, and when one was cloned from the other."""
        root = self.path(id)
        if parent is None:
            return root, None, None
        return root, self.path(parent), self.cloned(id, parent)

    def _while_there(
        self, id: str, parent: str | None, items: Iterable[Item]
    ) -> Generator[Item, None, None]:
        with self._there(id, parent):
            yield from items

    @contextmanager
    def _there(self, id: str, parent: str | None) -> Iterator[None]:
        """Refuse at the block's end or failure if one of the layers was removed meanwhile.

        Its own deletion may have emptied folders before they were read.
        """
        failed: OperationError | None = None
        try:
            yield
        except OperationError as error:
            failed = error
        for layer in (id, parent):
            if layer is not None and not self.exists(layer):
                gone = f"layer {layer} was removed while it was being compared"
                raise LayerError(gone) from failed
        if failed is not None:
            raise failed

    @cached_property
    def _shares_blocks(self) -> bool:
        return self.status()["Shared Blocks"] == "true"


class _Stream(io.RawIOBase):
    """Chunks as a file to be read; closing it ends the walk that they come from."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        piece = self._rest[: len(view)]
        view[: len(piece)] = piece
        self._rest = self._rest[len(piece) :]
        return len(piece)

    def close(self) -> None:
        self._chunks.close()
        super().close()
