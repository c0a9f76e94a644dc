"""The service's requests and answers as messages, and refusals as gRPC's codes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import grpc.aio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from reflayer.errors import ReflayerError
from reflayer.plugins.containerd.protocol import mount_pb2
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from reflayer.plugins.containerd.refusals import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    SnapshotError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from typing import TypeAlias

    from reflayer.plugins.containerd.snapshot import Snapshot
    from reflayer.plugins.containerd.snapshotter import Mount, Snapshotter
    from reflayer.plugins.metrics import Metrics

    Context: TypeAlias = grpc.aio.ServicerContext[object, object]

_CODES: dict[type[SnapshotError], grpc.StatusCode] = {
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
}
_CHUNK = 100  # snapshots in one message of List, at the most
_CHUNK_SIZE = 1 << 20  # bytes after which it is full, too; clients take 4 MiB unless told otherwise
_NANOSECONDS = 1_000_000_000


class Servicer:
    """Each method of the service, by the protocol's name; ``snapshotter`` in requests is ours."""

    def __init__(self, snapshotter: Snapshotter, metrics: Metrics) -> None:
        self._snapshotter = snapshotter
        self._metrics = metrics
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return not self._running

    async def idle(self) -> None:
        """Return when no request is being answered."""
        await self._idle.wait()

    async def Prepare(  # noqa: N802
        self, request: messages.PrepareSnapshotRequest, context: Context
    ) -> messages.PrepareSnapshotResponse:
        async with self._answering(context, "Prepare", key=request.key, parent=request.parent):
            mount = await self._snapshotter.prepare(request.key, request.parent, request.labels)
            return messages.PrepareSnapshotResponse(mounts=[_mount(mount)])

    async def View(  # noqa: N802
        self, request: messages.ViewSnapshotRequest, context: Context
    ) -> messages.ViewSnapshotResponse:
        async with self._answering(context, "View", key=request.key, parent=request.parent):
            mount = await self._snapshotter.view(request.key, request.parent, request.labels)
            return messages.ViewSnapshotResponse(mounts=[_mount(mount)])

    async def Mounts(  # noqa: N802
        self, request: messages.MountsRequest, context: Context
    ) -> messages.MountsResponse:
        async with self._answering(context, "Mounts", key=request.key):
            mount = self._snapshotter.mounts(request.key)
            return messages.MountsResponse(mounts=[_mount(mount)])

    async def Commit(  # noqa: N802
        self, request: messages.CommitSnapshotRequest, context: Context
    ) -> Empty:
        async with self._answering(context, "Commit", key=request.key, committed=request.name):
            await self._snapshotter.commit(request.name, request.key, request.labels)
            return Empty()

    async def Remove(  # noqa: N802
        self, request: messages.RemoveSnapshotRequest, context: Context
    ) -> Empty:
        async with self._answering(context, "Remove", key=request.key):
            await self._snapshotter.remove(request.key)
            return Empty()

    async def Stat(  # noqa: N802
        self, request: messages.StatSnapshotRequest, context: Context
    ) -> messages.StatSnapshotResponse:
        async with self._answering(context, "Stat", key=request.key):
            info = _info(self._snapshotter.stat(request.key))
            return messages.StatSnapshotResponse(info=info)

    async def Update(  # noqa: N802
        self, request: messages.UpdateSnapshotRequest, context: Context
    ) -> messages.UpdateSnapshotResponse:
        info = request.info
        async with self._answering(context, "Update", key=info.name):
            snapshot = await self._snapshotter.update(
                info.name, info.labels, request.update_mask.paths
            )
            return messages.UpdateSnapshotResponse(info=_info(snapshot))

    async def List(  # noqa: N802
        self, request: messages.ListSnapshotsRequest, context: Context
    ) -> None:
        async with self._answering(context, "List", filters=list(request.filters)):
            for chunk in _chunks(map(_info, self._snapshotter.walk(request.filters))):
                await context.write(messages.ListSnapshotsResponse(info=chunk))

    async def Usage(  # noqa: N802
        self, request: messages.UsageRequest, context: Context
    ) -> messages.UsageResponse:
        async with self._answering(context, "Usage", key=request.key):
            size, inodes = await self._snapshotter.usage(request.key)
            return messages.UsageResponse(size=size, inodes=inodes)

    async def Cleanup(  # noqa: N802
        self,
        _request: messages.CleanupRequest,
        context: Context,
    ) -> Empty:
        async with self._answering(context, "Cleanup"):
            await self._snapshotter.cleanup()
            return Empty()

    @asynccontextmanager
    async def _answering(
        self, context: Context, name: str, **fields: object
    ) -> AsyncIterator[None]:
        """The block answers one request; what it raises becomes a code and one line of text."""
        self._running += 1
        self._idle.clear()
        try:
            with self._metrics.operation("containerd", name, **fields):
                yield
        except SnapshotError as error:
            await context.abort(_CODES[type(error)], str(error))
        except ReflayerError as error:
            # As containerd's own snapshotters do with what it has no word for.
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()


def _chunks(infos: Iterable[messages.Info]) -> Iterator[list[messages.Info]]:
    chunk: list[messages.Info] = []
    size = 0
    for info in infos:
        chunk.append(info)
        size += info.ByteSize()
        if len(chunk) == _CHUNK or size >= _CHUNK_SIZE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _mount(mount: Mount) -> mount_pb2.Mount:
    options = ["rbind", "ro" if mount.read_only else "rw"]
    return mount_pb2.Mount(type="bind", source=mount.source, options=options)


def _info(snapshot: Snapshot) -> messages.Info:
    return messages.Info(
        name=snapshot.name,
        parent=snapshot.parent,
        kind=snapshot.kind.name,
        created_at=_timestamp(snapshot.created),
        updated_at=_timestamp(snapshot.updated),
        labels=snapshot.labels,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, _NANOSECONDS)
    return Timestamp(seconds=seconds, nanos=nanos)
