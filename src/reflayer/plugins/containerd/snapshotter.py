"""containerd's snapshotter: its operations and rules, on the driver and the records.

The rules are those of containerd's ``snapshots.Snapshotter`` as its own ones keep them. Names are
taken as they come: containerd and BuildKit put their namespace and a number before each. When they
collect garbage they ask without a namespace for all that there is, and remove what they do not
know: so names are not told apart by namespace here, and a home is for one of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from weakref import WeakValueDictionary

from reflayer.driver.home import write_out
from reflayer.driver.quota import size_in_bytes
from reflayer.errors import LayerError, QuotaError, ReflayerError, StoreError, printable
from reflayer.plugins.containerd.extraction import (
    is_extraction,
    is_unpacked_without_mount,
    overlay_options,
)
from reflayer.plugins.containerd.labels import changed, kept, parse_filters
from reflayer.plugins.containerd.records import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    Kind,
    NotFoundError,
    Snapshot,
)
from reflayer.plugins.containerd.write_back import WriteBack
from reflayer.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from reflayer.driver import Driver
    from reflayer.linux.project_quota import ProjectUse
    from reflayer.plugins.containerd.records import Records
    from reflayer.plugins.service import Metrics, Work
    from reflayer.progress import Progress

_log = logging.getLogger("reflayer.containerd")

# Of a client that starts the container in a user namespace (core/snapshots/snapshotter.go).
_MAP_LABELS = ("containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping")
_SIZE_LABEL = "containerd.io/snapshot/disk_quota"  # as overlaybd's snapshotter reads it


@record
class Mount:
    """What a client has to mount: its type, source and options, as in fstab(5)."""

    type: str
    source: str
    options: Sequence[str]


class Snapshotter:
    """The snapshots of one home; for one event loop.

    What the rules forbid is refused with a ``SnapshotError`` of its kind, what cannot be done is
    another ``ReflayerError``.
    """

    def __init__(self, driver: Driver, records: Records, work: Work, metrics: Metrics) -> None:
        self._driver = driver
        self._records = records
        self._work = work
        self._metrics = metrics
        self._turns = _Turns()
        self._writing = WriteBack(driver.home)
        self._held: set[str] = set()  # views that have the trees there that they show
        self._children_to_be: Counter[str] = Counter()

    def close(self) -> None:
        """End what goes on beside the requests."""
        self._writing.close()

    def recover(self) -> None:
        """Let go of what is only half there after a crash or power cut: a folder, or a record.

        A snapshot's folder is made before it is recorded, and its record goes together with its
        folder: so a folder without a record belongs to no snapshot, and a record without a folder
        to one that was being removed. What views show is mounted, perhaps, and has to stay.
        """
        folders = set(self._driver.list())
        snapshots = list(self._records.all())
        lost = [snapshot.name for snapshot in snapshots if snapshot.folder not in folders]
        for name in lost:
            _log.warning("snapshot %s has no folder any more: it is forgotten", name)
        if lost:
            self._records.forget(lost)
        for folder in folders - {snapshot.folder for snapshot in snapshots}:
            self._driver.remove(folder, wait=False)
        for view in (one for one in self._records.all() if not one.has_own_folder):
            try:
                self._driver.get(view.folder)
                self._held.add(view.name)
            except ReflayerError as error:
                _log.warning("view %s has no tree: %s", view.name, error)
        self._driver.drop_trees()

    async def create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> Mount:
        """Make an active snapshot or a view, from ``parent`` or, where that is empty, from nothing.

        An active one is a clone of its parent; for an applier to unpack a layer into, it is an
        empty difference on it. A view is its parent itself, read-only; of a difference, a tree that
        all views of it share. If this is cancelled, nothing of it is left.
        """
        if not key:
            raise InvalidArgumentError("a snapshot needs a key")
        async with self._turns.of(key):
            source = self._committed(parent) if parent else None
            if self._records.find(key) is not None:
                raise AlreadyExistsError(f"snapshot {key} exists already")
            now = time.time_ns()
            snapshot = Snapshot(key, parent, kind, os.urandom(16).hex(), now, now, kept(labels))
            if source is not None and kind is Kind.VIEW:
                snapshot = replace(snapshot, folder=source.folder)
            try:
                with self._needing(parent):
                    return await self._made(snapshot, source)
            except asyncio.CancelledError:
                # Cancelled too late to stop the work: the snapshot is there, but no client knows.
                if self._records.find(key) is not None:
                    await self._work.run(self._remove, snapshot)
                raise
            except LayerError:
                if parent:
                    self._committed(parent)  # it was removed meanwhile, which is the better answer
                raise

    async def mounts(self, key: str) -> Mount:
        """What to mount for the active snapshot or view ``key``."""
        snapshot = self._records.get(key)
        if snapshot.kind is Kind.COMMITTED:
            text = f"snapshot {key} is committed: it is not active or a view"
            raise FailedPreconditionError(text)
        return await self._work.run(self._mount, snapshot)

    async def commit(self, name: str, key: str, parent: str, labels: Mapping[str, str]) -> None:
        """Make the active snapshot ``key`` the committed one ``name``, on the disk.

        ``parent`` is what a layer lies on that was unpacked before that was there, or empty.
        """
        if not name:
            raise InvalidArgumentError("a committed snapshot needs a name")
        async with self._turns.of(name, key):
            active = self._records.get(key)
            if self._records.find(name) is not None:
                raise AlreadyExistsError(f"committed snapshot {name} exists already")
            if active.kind is not Kind.ACTIVE:
                raise FailedPreconditionError(f"snapshot {key} is not active")
            if parent and active.parent and parent != active.parent:
                raise InvalidArgumentError(f"snapshot {key} has another parent: {active.parent}")
            if parent and self._records.get(parent).kind is not Kind.COMMITTED:
                raise FailedPreconditionError(f"parent {parent} is not a committed snapshot")
            active = replace(active, parent=parent or active.parent)
            with self._needing(active.parent):
                await self._commit(name, key, active, labels)

    async def _commit(
        self, name: str, key: str, active: Snapshot, labels: Mapping[str, str]
    ) -> None:
        parent = self._parent_folder(active)
        is_late = active.parent != self._records.get(key).parent
        if is_late and not self._is_being_unpacked(active):
            text = f"snapshot {key} is whole: it was not made to be laid on {active.parent}"
            raise FailedPreconditionError(text)
        # To write out waits for the disk, the rest for a processor; then little is left to write.
        writing = asyncio.ensure_future(self._work.run(self._write_out, active.folder))
        try:
            if is_extraction(key):
                await self._work.run(self._complete, active, parent)
            usage = await self._work.run(self._driver.usage, active.folder, parent)
        finally:
            await writing
        await self._work.run(self._sync, active.folder)
        now = time.time_ns()
        committed = replace(active, name=name, kind=Kind.COMMITTED, labels=kept(labels))
        committed = replace(
            committed, created=now, updated=now, size=usage.bytes, inodes=usage.inodes
        )
        await self._work.run(self._record, key, committed)

    async def remove(self, key: str) -> None:
        """Remove a snapshot; what it takes on the disk is deleted after that."""
        async with self._turns.of(key):
            snapshot = self._records.get(key)
            if self._children_to_be[key]:
                raise FailedPreconditionError(f"cannot remove snapshot {key}: it is being cloned")
            try:
                await self._work.run(self._remove, snapshot)
            except StoreError:
                # On a full disk this may take the room that its folder leaves when it is deleted.
                await self.cleanup()
                await self._work.run(self._remove, snapshot)

    def limits(self) -> Iterator[tuple[str, ProjectUse]]:
        """The active snapshots with a size: what each takes of it. For any thread."""
        for snapshot in self._records.all():
            if snapshot.kind is Kind.ACTIVE:
                try:
                    use = self._driver.limited(snapshot.folder)
                except ReflayerError:  # it was removed meanwhile
                    continue
                if use is not None:
                    yield snapshot.name, use

    def stat(self, key: str) -> Snapshot:
        return self._records.get(key)

    async def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Change the labels that ``paths`` name as ``labels.changed`` has it; none names all."""
        async with self._turns.of(name):
            snapshot = self._records.get(name)
            updated = replace(
                snapshot,
                labels=changed(name, snapshot.labels, labels, paths or ["labels"]),
                updated=time.time_ns(),
            )
            await self._work.run(self._records.update, updated)
            return updated

    def walk(self, filters: Sequence[str]) -> Iterator[Snapshot]:
        """All snapshots that one of ``filters`` matches; without any, all there are."""
        return filter(parse_filters(filters), self._records.all())

    async def usage(self, key: str) -> tuple[int, int]:
        """The bytes and inodes that a snapshot takes itself.

        Those of an active one are counted now, of one with a size by the file system; those of a
        committed one were when it was committed.
        """
        snapshot = self._records.get(key)
        if snapshot.kind is not Kind.ACTIVE:
            return snapshot.size, snapshot.inodes
        parent = self._parent_folder(snapshot)
        try:
            limited = await self._work.run(self._driver.limited, snapshot.folder)
            if limited is not None:
                return limited.bytes, limited.inodes
            usage = await self._work.run(self._driver.usage, snapshot.folder, parent)
            return usage.bytes, usage.inodes
        except LayerError:
            async with self._turns.of(key):  # it is being removed, which is the better answer
                self._records.get(key)
            raise

    async def cleanup(self) -> None:
        """Return when what the snapshots that are removed by now have left is deleted."""
        await self._work.run(self._driver.empty_trash)

    async def _made(self, snapshot: Snapshot, source: Snapshot | None) -> Mount:
        """Make what it needs, and record it."""
        if source is None or self._is_to_be_unpacked(snapshot):
            return await self._work.run(self._make, snapshot, source, None)
        if snapshot.kind is Kind.VIEW and self._driver.lower(source.folder) is None:
            return await self._work.run(self._make, snapshot, source, None)
        return await self._work.copy(lambda progress: self._make(snapshot, source, progress))

    def _make(
        self, snapshot: Snapshot, source: Snapshot | None, progress: Progress | None
    ) -> Mount:
        parent = None if source is None else source.folder
        report = None
        if not snapshot.has_own_folder:
            self._driver.get(snapshot.folder)
        elif self._is_to_be_unpacked(snapshot):
            self._driver.create_difference(snapshot.folder, parent)
        else:
            size = _size_of(snapshot)
            if parent is not None:
                self._driver.note_use(parent, size=size)
            report = self._driver.create(snapshot.folder, parent, size=size, progress=progress)
        try:
            if self._is_to_be_unpacked(snapshot):
                self._writing.begin(snapshot.folder)
            if progress is not None:
                progress("clone", 0, None)
            mount = self._mount(snapshot)
            self._records.add(snapshot)
        except BaseException:
            if snapshot.has_own_folder:
                self._writing.end(snapshot.folder)
                self._driver.remove(snapshot.folder, wait=False)
            else:
                self._driver.put(snapshot.folder)
            raise
        if not snapshot.has_own_folder:
            self._held.add(snapshot.name)
        self._metrics.copied(report)
        return mount

    def _is_to_be_unpacked(self, snapshot: Snapshot) -> bool:
        """Whether it is a layer for an applier to unpack.

        Also without a parent: containerd 2.2 tells that of a layer that has one only in the end,
        where it unpacks several at once.
        """
        is_asked_for = snapshot.kind is Kind.ACTIVE and is_extraction(snapshot.name)
        return is_asked_for and self._unpacks_differences

    def _is_being_unpacked(self, snapshot: Snapshot) -> bool:
        is_asked_for = snapshot.kind is Kind.ACTIVE and is_extraction(snapshot.name)
        return is_asked_for and self._driver.is_difference(snapshot.folder)

    @cached_property
    def _unpacks_differences(self) -> bool:
        return self._driver.keeps_differences and is_unpacked_without_mount(self._driver.home)

    def _write_out(self, folder: str) -> None:
        with self._writing.opened(folder) as home:
            write_out(home, self._driver.home)

    def _sync(self, folder: str) -> None:
        with self._writing.opened(folder) as home:
            self._driver.sync(folder, home)

    def _record(self, key: str, committed: Snapshot) -> None:
        self._records.commit(key, committed)
        self._writing.end(committed.folder)

    def _complete(self, active: Snapshot, parent: str | None) -> None:
        """Let what was unpacked be the layer that it is, on the folder ``parent`` or on none."""
        from reflayer.plugins.containerd.mending import mend, mend_clone

        below = None if parent is None else self._driver.stack(parent)
        folder = self._driver.folder(active.folder)
        if self._driver.is_difference(active.folder):
            mend(folder, below, active.created)
            self._driver.rebase(active.folder, parent)
        elif below is not None:
            mend_clone(folder, below, active.created)

    def _remove(self, snapshot: Snapshot) -> None:
        def remove_folder() -> None:
            if snapshot.has_own_folder:
                recycle = self._driver.recycles and snapshot.kind is Kind.ACTIVE
                self._driver.remove(snapshot.folder, wait=False, recycle=recycle)

        self._records.remove(snapshot.name, remove_folder)
        self._writing.end(snapshot.folder)
        if snapshot.name in self._held:
            self._held.remove(snapshot.name)
            self._driver.put(snapshot.folder)

    def _committed(self, parent: str) -> Snapshot:
        source = self._records.find(parent)
        if source is None:
            raise NotFoundError(f"parent {parent} does not exist")
        if source.kind is not Kind.COMMITTED:
            raise InvalidArgumentError(f"parent {parent} is not a committed snapshot")
        return source

    @contextmanager
    def _needing(self, parent: str) -> Iterator[None]:
        """Let ``parent`` stay while the block makes a child of it."""
        self._children_to_be[parent] += 1
        try:
            yield
        finally:
            self._children_to_be[parent] -= 1
            if not self._children_to_be[parent]:
                del self._children_to_be[parent]

    def _parent_folder(self, snapshot: Snapshot) -> str | None:
        parent = self._records.find(snapshot.parent) if snapshot.parent else None
        return None if parent is None else parent.folder

    def _mount(self, snapshot: Snapshot) -> Mount:
        if self._is_being_unpacked(snapshot):
            parent = self._parent_folder(snapshot)
            below = None if parent is None else self._driver.stack(parent)
            options = overlay_options(self._driver.folder(snapshot.folder), below)
            return Mount("overlay", "overlay", options)
        access = "rw" if snapshot.kind is Kind.ACTIVE else "ro"
        path = self._driver.path(snapshot.folder)
        return Mount("bind", path, ("rbind", access, *_owners_shown(snapshot, path)))


def _owners_shown(snapshot: Snapshot, path: str) -> list[str]:
    """The options of a mount that shows the owners of the client's user namespace, if it has one.

    A client that was not told of ``remap-ids`` has given the files those owners itself, in the
    snapshot that this one is of, and sends the same labels.
    """
    maps = [snapshot.labels.get(label, "") for label in _MAP_LABELS]
    if snapshot.kind is not Kind.ACTIVE or not all(maps):
        return []
    root = _host_root(maps[0])
    if root and os.lstat(path).st_uid == root:
        return []
    return [f"{option}={told}" for option, told in zip(("uidmap", "gidmap"), maps, strict=True)]


def _host_root(told: str) -> int:
    """The host's id of the container's 0 in ``CONTAINER:HOST:COUNT``, separated by commas."""
    try:
        ranges = [tuple(map(int, one.split(":"))) for one in told.split(",")]
        return next(host for inside, host, count in ranges if inside == 0 and count > 0)
    except (ValueError, StopIteration):
        raise InvalidArgumentError(
            f"label {_MAP_LABELS[0]}: {printable(told)!r} has no root as CONTAINER:HOST:COUNT"
        ) from None


def _size_of(snapshot: Snapshot) -> int | None:
    """Bytes that it may take; 0 for any number, None for the driver's own."""
    if is_extraction(snapshot.name):
        return 0
    text = snapshot.labels.get(_SIZE_LABEL)
    if text is None:
        return None
    try:
        return size_in_bytes(text)
    except QuotaError as error:
        raise InvalidArgumentError(f"label {_SIZE_LABEL}: {error}") from error


class _Turns:
    """Requests for the same names follow each other; those for different ones do not wait."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, *names: str) -> AsyncIterator[None]:
        """The block runs when the blocks before it that have one of ``names`` have ended."""
        async with AsyncExitStack() as stack:
            for name in sorted(set(names)):  # all in one order: no deadlock
                lock = self._locks.setdefault(name, asyncio.Lock())
                await stack.enter_async_context(lock)
            yield
