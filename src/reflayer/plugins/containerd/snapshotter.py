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
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from reflayer.errors import LayerError, StoreError
from reflayer.plugins.containerd.labels import changed, kept, parse_filters
from reflayer.plugins.containerd.records import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    Kind,
    NotFoundError,
    Snapshot,
)
from reflayer.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from reflayer.driver import Driver
    from reflayer.plugins.containerd.records import Records
    from reflayer.plugins.service import Metrics, Work
    from reflayer.progress import Progress

_log = logging.getLogger("reflayer.containerd")


@record
class Mount:
    """What a client has to bind-mount: a folder's path, and whether only to read it."""

    source: str
    read_only: bool


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
        self._children_to_be: Counter[str] = Counter()

    def recover(self) -> None:
        """Let go of what is only half there after a crash or power cut: a folder, or a record.

        A snapshot's folder is made before it is recorded, and its record goes together with its
        folder: so a folder without a record belongs to no snapshot, and a record without a folder
        to one that was being removed.
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

    async def create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> Mount:
        """Make an active snapshot or a view, from ``parent`` or, where that is empty, from nothing.

        An active one is a clone of its parent; a view is its parent itself, read-only. If this is
        cancelled, nothing of it is left.
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
            self._children_to_be[parent] += 1
            try:
                await self._made(snapshot, source)
            except asyncio.CancelledError:
                # Cancelled too late to stop the work: the snapshot is there, but no client knows.
                if self._records.find(key) is not None:
                    await self._work.run(self._remove, snapshot)
                raise
            except LayerError:
                if parent:
                    self._committed(parent)  # it was removed meanwhile, which is the better answer
                raise
            finally:
                self._children_to_be[parent] -= 1
                if not self._children_to_be[parent]:
                    del self._children_to_be[parent]
            return self._mount(snapshot)

    def mounts(self, key: str) -> Mount:
        """What to mount for the active snapshot or view ``key``."""
        snapshot = self._records.get(key)
        if snapshot.kind is Kind.COMMITTED:
            text = f"snapshot {key} is committed: it is not active or a view"
            raise FailedPreconditionError(text)
        return self._mount(snapshot)

    async def commit(self, name: str, key: str, labels: Mapping[str, str]) -> None:
        """Make the active snapshot ``key`` the committed one ``name``, on the disk."""
        if not name:
            raise InvalidArgumentError("a committed snapshot needs a name")
        async with self._turns.of(name, key):
            active = self._records.get(key)
            if self._records.find(name) is not None:
                raise AlreadyExistsError(f"committed snapshot {name} exists already")
            if active.kind is not Kind.ACTIVE:
                raise FailedPreconditionError(f"snapshot {key} is not active")
            # To write it out waits for the disk, to count what it takes for a processor.
            parent = self._parent_folder(active)
            counting = asyncio.ensure_future(
                self._work.run(self._driver.usage, active.folder, parent)
            )
            try:
                await self._work.run(self._driver.sync, active.folder)
            finally:
                usage = await counting
            now = time.time_ns()
            committed = replace(active, name=name, kind=Kind.COMMITTED, labels=kept(labels))
            committed = replace(
                committed, created=now, updated=now, size=usage.bytes, inodes=usage.inodes
            )
            await self._work.run(self._records.commit, key, committed)

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

        Those of an active one are counted now, those of a committed one were when it was committed.
        """
        snapshot = self._records.get(key)
        if snapshot.kind is not Kind.ACTIVE:
            return snapshot.size, snapshot.inodes
        parent = self._parent_folder(snapshot)
        try:
            usage = await self._work.run(self._driver.usage, snapshot.folder, parent)
            return usage.bytes, usage.inodes
        except LayerError:
            self._records.get(key)  # it was removed meanwhile, which is the better answer
            raise

    async def cleanup(self) -> None:
        """Return when what the snapshots that are removed by now have left is deleted."""
        await self._work.run(self._driver.empty_trash)

    async def _made(self, snapshot: Snapshot, source: Snapshot | None) -> None:
        """Make its folder where it has one of its own, then record it."""
        if not snapshot.has_own_folder:
            await self._work.run(self._records.add, snapshot)
        elif source is None:
            await self._work.run(self._make, snapshot, None, None)
        else:
            folder = source.folder
            await self._work.copy(lambda progress: self._make(snapshot, folder, progress))

    def _make(self, snapshot: Snapshot, parent: str | None, progress: Progress | None) -> None:
        report = self._driver.create(snapshot.folder, parent, progress=progress)
        try:
            if progress is not None:
                progress("clone", 0, None)
            self._records.add(snapshot)
        except BaseException:
            self._driver.remove(snapshot.folder, wait=False)
            raise
        self._metrics.copied(report)

    def _remove(self, snapshot: Snapshot) -> None:
        def remove_folder() -> None:
            if snapshot.has_own_folder:
                self._driver.remove(snapshot.folder, wait=False)

        self._records.remove(snapshot.name, remove_folder)

    def _committed(self, parent: str) -> Snapshot:
        source = self._records.find(parent)
        if source is None:
            raise NotFoundError(f"parent {parent} does not exist")
        if source.kind is not Kind.COMMITTED:
            raise InvalidArgumentError(f"parent {parent} is not a committed snapshot")
        return source

    def _parent_folder(self, snapshot: Snapshot) -> str | None:
        parent = self._records.find(snapshot.parent) if snapshot.parent else None
        return None if parent is None else parent.folder

    def _mount(self, snapshot: Snapshot) -> Mount:
        return Mount(self._driver.path(snapshot.folder), snapshot.kind is Kind.VIEW)


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
