"""The VFS graph driver: a layer is whole, or a difference on another; a clone is of a stack."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from functools import partial

from reflayer.driver import differences, spares, trees
from reflayer.driver.clone import METHODS
from reflayer.driver.create import changing_layer, new_difference, new_layer
from reflayer.driver.differences import is_difference
from reflayer.driver.home import (
    BUILDS,
    Making,
    checked_id,
    has_labels,
    layer_path,
    make_home,
    opened,
    taken,
    write_out,
)
from reflayer.driver.layers import Layers
from reflayer.driver.maps import mapped
from reflayer.driver.recovery import recover
from reflayer.driver.trash import delete_behind, delete_trash, empty_trash, left_in_trash
from reflayer.errors import NO_ROOM, LayerError, OperationError, failing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import BinaryIO, ParamSpec, TypeVar

    from reflayer.archive import IdMap
    from reflayer.copy import CopyReport
    from reflayer.driver.checkpoint import Checkpoint
    from reflayer.driver.lately import Lately
    from reflayer.driver.spares import Spares
    from reflayer.linux.project_quota import ProjectUse
    from reflayer.progress import Progress
    from reflayer.walk.folders import AnyPath

    P = ParamSpec("P")
    T = TypeVar("T")


class Driver(Layers):
    """One home of layers; several threads may use a driver, and several processes one home.

    A layer is there whole or not at all, whatever ends the process that makes or removes it. Every
    method raises ``LayerError`` for what is no id, and for a layer that is not there, but where it
    says otherwise; and ``OperationError`` where the system could not do it.

    Attributes:
        home: the home's path, absolute, without symbolic links.
        recycles: whether who serves its layers is to recycle containers (``keep_spares_of_used``).
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
            ownership: ``keep``, ``record`` or ``ignore``, as for ``copy_tree``.
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
        root = None if id_map is None else id_map.root
        making = Making(method, ownership, workers, root)
        super().__init__(os.path.realpath(os.fsdecode(home)), making, id_map)
        self._size = size or 0
        self._lately: Lately | None = None
        self.recycles = False
        make_home(self.home, None if root is None else root[1])
        self._require_quota(self._size)
        recover(self.home, self._remake)

    def create(
        self,
        id: str,
        parent: str | None = None,
        *,
        size: int | None = None,
        mount_label: str = "",
        id_map: IdMap | None = None,
        progress: Progress | None = None,
    ) -> CopyReport | None:
        """Make the whole layer ``id``, a clone of ``parent`` or empty; it is not forced to disk.

        Args:
            id: the new layer.
            parent: the layer to clone; None for an empty folder of mode 0755.
            size: bytes that it may take, 0 for any number; None for the driver's ``size``. What it
                has from its parent counts too, and is an error if it is more.
            mount_label: the SELinux label of its root; of no effect where the kernel has none.
            id_map: gives its files the ids of the host that stand for those of ``parent``, whose
                ids are what all is told of it by, and made of it, as long as it is there.
            progress: called some times a second with ``clone`` and the entries so far.

        Returns:
            The clone's report, with the method ``spare`` where one was taken, which counts nothing;
            None without a parent.

        Raises:
            LayerError: ``id`` is there already, ``parent`` is not, or one of them is no id.
            CopyError: the clone failed, as where an id has none on the host. Nothing is left.
            OperationError: another step failed. Nothing of it is left.
            QuotaError: there is a size, but the file system has no quotas for it.
            ArchiveError: ``id_map`` has no root.
        """
        making = mapped(self._making, id_map)
        size = self._size if size is None else size
        has_spares = parent is not None and not size and not (mount_label and has_labels())
        if parent is None or not has_spares or not spares.use(self.home, checked_id(parent)):
            return self._create(id, parent, making, size, mount_label, progress)
        from reflayer.driver.fill import fill_behind

        started = time.monotonic()
        left = spares.take(self.home, parent, checked_id(id), making)
        try:
            if left is not None:
                return spares.report(time.monotonic() - started)
            return self._create(id, parent, making, size, mount_label, progress)
        finally:
            fill_behind(self.home, parent, left)

    def _create(
        self,
        id: str,
        parent: str | None,
        making: Making,
        size: int,
        label: str,
        progress: Progress | None,
    ) -> CopyReport | None:
        self._check_new(id, parent, size)
        return self._with_room(self._clone, id, parent, making, size, label, progress)

    def _clone(
        self,
        id: str,
        parent: str | None,
        making: Making,
        size: int,
        label: str,
        progress: Progress | None,
    ) -> CopyReport | None:
        with new_layer(
            self.home, id, parent, making, size=size, label=label, progress=progress
        ) as (_, report):
            return report

    def create_difference(
        self,
        id: str,
        parent: str | None,
        *,
        mount_label: str = "",
        progress: Progress | None = None,
    ) -> CopyReport | None:
        """Make the layer ``id``, an empty difference on ``parent``; it is not forced to disk.

        It is to be filled, by ``apply`` or by others through ``folder``. Its root has the metadata
        of that of ``parent``; without one ``rebase`` is to tell what it lies on. Where differences
        are not kept (``keeps_differences``) this is ``create``, and so are its errors.

        Returns:
            The clone's report where it was one.
        """
        if not self.keeps_differences:
            return self.create(id, parent, size=0, mount_label=mount_label, progress=progress)
        self._check_new(id, parent)
        self._with_room(self._create_difference, id, parent, mount_label)
        return None

    def _create_difference(self, id: str, parent: str | None, label: str) -> None:
        with new_difference(self.home, id, parent, self._making, label=label, is_new=True):
            pass

    def rebase(self, id: str, parent: str | None) -> None:
        """Tell what the difference ``id``, made without a parent, lies on; None makes it whole.

        A root that nobody has changed gets the metadata of that of ``parent``. What a whole layer
        would hide below it, whiteouts and opaque folders, goes; a whole one can be told None alone.

        Raises:
            LayerError: one of them is not there; ``id`` is whole, or lies on another layer already;
                or ``parent`` lies on ``id``.
        """
        from reflayer.driver.rebase import rebase

        rebase(self.home, checked_id(id), parent and checked_id(parent), self._making)

    def take_over(self, id: str, parent: str, *, mount_label: str = "") -> bool:
        """Make the folder of layer ``parent`` that of the new container's layer ``id``.

        ``parent`` stays the layer that it was, as a difference on the one that it was cloned from.
        So ``id`` costs no second clone.

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
        from reflayer.driver.take_over import take_over

        self._check_new(id, parent)
        if self._size or self._references.count(parent) or not self.keeps_differences:
            return False
        return self._with_room(take_over, self.home, id, parent, self._making, mount_label)

    def changing(self, id: str) -> AbstractContextManager[None]:
        """Let no other thread or process be in such a block of layer ``id``."""
        from reflayer.driver.checkpoint import changing

        return changing(self.home, checked_id(id))

    @contextmanager
    def checkpoint(self, id: str, new: str) -> Iterator[Checkpoint]:
        """Make the layer ``new`` of what the container's layer ``id`` is now, in ``changing``.

        It costs what changed since the layer that ``id`` stands on: the one that it was cloned
        from, or that of the last checkpoint or rollback. It is written out to disk. Where nothing
        has changed there is no new one. The block is to record the layer; after it ``id`` stands on
        that. What others change in ``id`` meanwhile is in this layer or in the next one.

        Raises:
            LayerError: ``id`` is not there, ``new`` is, or one of them is no id.
            OperationError: it cannot be told what changed, or not be copied. Nothing is left.
        """
        from reflayer.driver.checkpoint import checkpoint

        self._check_new(new)
        checked_id(id)
        spares.make_room(self.home)
        with checkpoint(self.home, id, new, self._making, self.keeps_differences) as made:
            yield made
        if left_in_trash(self.home):
            delete_behind(self.home)

    def goes_in_place(self, id: str, to: str) -> bool:
        """Whether ``rollback`` changes the folder of ``id``, so that a failure leaves a mixture."""
        from reflayer.driver.checkpoint import goes_in_place

        return goes_in_place(self.home, checked_id(id), checked_id(to))

    def rollback(self, id: str, to: str, *, progress: Progress | None = None) -> None:
        """Let the container's layer ``id`` be what layer ``to`` is, in ``changing``.

        It stands on that then. It costs what changed since the layer that it stands on, and what
        is between the two; the folder stays, and nobody may write to it meanwhile. If that is cut
        off, or fails, it is half done, and to be done again. Where times do not tell what changed
        it costs a clone: then ``id`` gets another folder in one step, and is what it was before if
        it fails.

        Raises:
            LayerError: one of them is not there.
            OperationError: it cannot be told what changed, or not be undone.
            CopyError: the clone failed.
        """
        from reflayer.driver.checkpoint import rollback

        checked_id(id)
        checked_id(to)
        making = mapped(self._making, self.id_map(id))
        trash = self._with_room(rollback, self.home, id, to, making, progress)
        if trash is not None:
            delete_behind(self.home)

    @contextmanager
    def build(
        self,
        id: str,
        parent: str | None = None,
        *,
        progress: Progress | None = None,
        durable: bool = True,
    ) -> Iterator[str]:
        """The path of a clone of ``parent``, or of an empty folder, for the block to change.

        At the end of the block the folder becomes the layer ``id``, written out to disk before if
        it is to be ``durable``. If the block raises, the folder is deleted. Errors are those of
        ``create``.
        """
        self._check_new(id, parent)
        making = self._making
        spares.make_room(self.home)
        with new_layer(self.home, id, parent, making, progress=progress, durable=durable) as (
            path,
            _,
        ):
            yield path

    @contextmanager
    def build_difference(self, id: str, parent: str, *, durable: bool = True) -> Iterator[str]:
        """The path of an empty folder for the block to fill with a difference on ``parent``.

        ``apply_layer`` does so. At the end of the block ``parent`` has to be there. The rest is as
        for ``build``.
        """
        self._check_new(id)
        checked_id(parent)
        spares.make_room(self.home)
        with new_difference(self.home, id, parent, self._making, durable=durable) as upper:
            yield upper

    def apply(self, id: str, stream: BinaryIO, *, progress: Progress | None = None) -> int:
        """Apply the layer archive ``stream`` to layer ``id``, and write it out to disk.

        Until that is done the layer is not there, and after a failure or crash it is no more.

        Args:
            id: the layer: a clone of the one below that the archive is made for, an empty one, or a
                new difference. One that is filled becomes whole first.
            stream: a tar, plain or compressed as ``apply_layer`` takes it, read to its end.
            progress: called now and then with ``unpack`` and the bytes read so far; what it
                raises ends the work.

        Returns:
            The sum of the sizes of all files in the archive, as Docker tells it.

        Raises:
            ArchiveError: the archive is damaged or asks for what cannot be.
        """
        from reflayer.archive import apply_stream

        below = self.lower(id)
        self.stack(id)  # all of it is there
        if not differences.is_empty(differences.difference_path(self.home, id)):
            self.make_whole(id)
            below = None
        spares.make_room(self.home)
        with changing_layer(self.home, id) as (path, come_to):

            def told(count: int) -> None:
                come_to(count)
                if progress is not None:
                    progress("unpack", count, None)

            return apply_stream(
                path,
                stream,
                ownership=self._making.ownership,
                id_map=self._id_map,
                progress=told,
                below=None if below is None else partial(differences.stack, self.home, below),
            )

    def sync(self, id: str, folder: int | None = None) -> None:
        """Write out to disk layer ``id``, which others have filled by its path or folder.

        ``folder`` is one of the home's file system, open since before that: so an error is told
        that came meanwhile, also one that another has been told.
        """
        path = self.folder(id)
        differences.set_filled(differences.difference_path(self.home, id))
        if folder is not None:
            write_out(folder, path)
            return
        with opened(path) as own:
            write_out(own, path)

    def remove(self, id: str, *, wait: bool = True, recycle: bool = False) -> str:
        """Remove layer ``id``; it is no error where there is none. The id is free at once.

        Differences that lie on it become whole first.

        Args:
            id: the layer.
            wait: return when all of it is deleted; otherwise a process of its own deletes it.
            recycle: where it can be proved what changed in it since it was cloned from another
                layer, and that nobody has it any more, undo that, so that it is a spare of that
                layer; else delete it. Without ``wait`` what makes spares does so behind, if that
                layer is to have more. Only for one in which nothing ran that might want to harm the
                next: two files' content can be exchanged without a time that tells
                (``driver.recycle``).

        Returns:
            Why it was not recycled; empty where it was, or will be, or was not to be.

        Raises:
            OperationError: something is mounted in it, or it cannot be moved out of the way; or,
                after that, not all in it can be deleted, and the next start or ``remove`` tries
                again.
        """
        from reflayer.walk.mounts import refuse_mounts_at

        if not self.exists(id):
            return ""
        for layer in (layer_path(self.home, id), differences.upper_path(self.home, id)):
            with failing(layer, "look for mounts"):
                refuse_mounts_at(os.fsencode(layer), os.fsencode(layer))
        trash, reason = None, ""
        while trash is None:
            for child in differences.children(self.home, id):
                try:
                    self.make_whole(child)
                except LayerError:
                    if self.exists(child):  # else another one was faster
                        raise
            self._references.forget(id)
            if recycle:
                trash, reason = self._recycle(id, wait)
            else:
                trash = trees.withdraw(self.home, id)
        if wait:
            for path in trash:
                delete_trash(path)
        if not wait or left_in_trash(self.home):
            delete_behind(self.home)
        return reason

    def _recycle(self, id: str, wait: bool) -> tuple[list[str] | None, str]:
        """As ``trees.withdraw``; and why layer ``id`` was not recycled."""
        from reflayer.driver.fill import fill_behind
        from reflayer.driver.remove import recycle

        making = mapped(self._making, self.id_map(id))
        removed = recycle(self.home, id, making, behind=not wait)
        if removed is None:
            return None, ""
        if removed.layer is not None and not wait:
            fill_behind(self.home, removed.layer)
        return removed.trash, removed.reason

    def make_whole(self, id: str) -> None:
        """Let layer ``id`` be whole, on the disk; nothing is done where it is.

        Raises:
            CopyError: its clone failed. It is a difference still.
        """
        below = self.lower(id)
        if not is_difference(self.home, id):
            return
        if below is None:
            self.rebase(id, None)
            self.sync(id)
        else:
            self._with_room(trees.make_whole, self.home, id, self._making)
        if left_in_trash(self.home):
            delete_behind(self.home)

    def make_all_whole(self, *, progress: Progress | None = None) -> None:
        """Let all layers be whole, as Docker's own vfs driver knows them.

        Args:
            progress: called with ``clone``, how many layers have become whole, and of how many.
        """
        kept = [id for id in self.list() if is_difference(self.home, id)]
        for done, id in enumerate(kept):
            if progress is not None:
                progress("clone", done, len(kept))
            self.make_whole(id)

    def keep_spares(
        self,
        id: str,
        count: int,
        *,
        id_map: IdMap | None = None,
        wait: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Keep ``count`` spares of layer ``id`` ready, which another process makes; 0 ends that.

        ``create`` takes one, where there is one, by a rename; and so does whatever else clones
        ``id`` whole for a new layer. They go with ``id``, when nothing was cloned from it for a
        day, and where less of the disk is free than ``keep_free`` says. There are none of earlier
        boots, nor any for a layer with a ``size`` or an SELinux label.

        Args:
            id: the layer.
            count: how many.
            id_map: as for ``create``, which takes those of its own map alone; a layer has those of
                one, the last that was said.
            wait: make those that are missing here, and return when they are ready.
            progress: called with ``spares``, how many are ready, and of how many.

        Raises:
            OperationError: one cannot be made, as where little of the disk is free.
        """
        from reflayer.driver.fill import fill_behind, fill_now

        making = mapped(self._making, id_map)
        spares.keep(self.home, checked_id(id), count, making)
        if wait:
            fill_now(self.home, id, making, progress)
        fill_behind(self.home, None if wait else id)
        if left_in_trash(self.home):
            delete_behind(self.home)

    def keep_spares_of_used(self, most: int, *, recycle: bool = False) -> None:
        """Keep spares of each layer that is noted as used from now on, for a process that lives.

        That is as many as it was used times in the last minute, at most ``most``; where clones
        share no blocks, none but those of ``keep_spares``. With 0 those of a process before it go.
        With ``recycle`` its containers are to be recycled when they are removed (``recycles``).
        """
        from reflayer.driver.lately import Lately

        self.recycles = recycle
        self._lately = Lately(self.home, self._making, most)

    def note_use(self, id: str, *, size: int | None = None) -> None:
        """Note that a container is about to be made of layer ``id``: the next one may be, too.

        Not so of one with a ``size``, which is as for ``create``.
        """
        if self._lately is not None and not (self._size if size is None else size):
            with suppress(OperationError):  # nothing fails for the sake of spares
                if self._lately.most and self._abilities.shares_blocks:
                    self._lately.note(checked_id(id))

    def spares(self) -> list[Spares]:
        """How many spares are wanted and ready, of each layer that has or shall have some."""
        return spares.all_spares(self.home)

    def give_up_spares(self) -> bool:
        """Delete all spares, to have their room; whether there were any. They are wanted still."""
        return spares.give_up(self.home)

    def keep_free(self, percent: int) -> None:
        """Let spares give way where less than ``percent`` of the disk, or its inodes, is free.

        Trees of differences do so as well. It is kept in the home; at first it is 10.
        """
        from reflayer.driver.room import set_keep_free

        set_keep_free(self.home, percent)

    def empty_trash(self) -> None:
        """Return when all that was removed is deleted, by this process or another.

        Raises:
            OperationError: the first thing that cannot be deleted; everything else is.
        """
        empty_trash(self.home)

    def _with_room(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do ``step``; where there is no room for it, once more when all spares have gone."""
        spares.make_room(self.home)
        try:
            return step(*args, **kwargs)
        except OperationError as error:
            if error.errno not in NO_ROOM or not self.give_up_spares():
                raise
        return step(*args, **kwargs)

    def require_quota(self) -> None:
        """Make sure that layers can have a size here.

        Raises:
            QuotaError: they cannot.
        """
        self._require_quota(1)

    def limited(self, id: str) -> ProjectUse | None:
        """What layer ``id`` takes of its size, as the file system counts; None without a size.

        All that is in it counts, what it shares with its parent too. The time it takes does not
        depend on how much that is.
        """
        from reflayer.driver.quota import use_of

        try:
            return use_of(self.folder(id))
        except OperationError:
            differences.require(self.home, id)  # it was removed meanwhile, which is said better
            raise

    def _check_new(self, id: str, parent: str | None = None, size: int = 0) -> None:
        """Refuse what cannot be made."""
        if self.exists(id):
            raise taken(id)
        if parent is not None:
            differences.require(self.home, parent)
        self._require_quota(size)

    def _require_quota(self, size: int) -> None:
        if size:
            from reflayer.driver.quota import require_quota

            require_quota(f"{self.home}/{BUILDS}")

    def _remake(self, id: str, parent: str, archive: BinaryIO) -> None:
        """Make layer ``id``, on the disk, of the ``archive`` of its difference from ``parent``."""
        from reflayer.archive import apply_stream

        ownership = self._making.ownership
        if self.keeps_differences:
            below = partial(differences.stack, self.home, parent)
            with new_difference(self.home, id, parent, self._making, durable=True) as upper:
                apply_stream(upper, archive, ownership=ownership, below=below)
        else:
            with new_layer(self.home, id, parent, self._making, durable=True) as (path, _):
                apply_stream(path, archive, ownership=ownership)
