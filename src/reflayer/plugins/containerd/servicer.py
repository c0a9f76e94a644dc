"""The service's requests and answers as messages, and refusals as gRPC's statuses."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from functools import partial

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler

from reflayer.errors import ReflayerError
from reflayer.plugins.containerd.protocol import mount_pb2
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from reflayer.plugins.containerd.records import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    Kind,
    NotFoundError,
    SnapshotError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from typing import Any

    from grpclib.server import Stream

    from reflayer.plugins.containerd.records import Snapshot
    from reflayer.plugins.containerd.snapshotter import Mount, Snapshotter
    from reflayer.plugins.service import Metrics

_SERVICE = messages.DESCRIPTOR.services_by_name["Snapshots"]
_STATUSES: dict[type[SnapshotError], Status] = {
    NotFoundError: Status.NOT_FOUND,
    AlreadyExistsError: Status.ALREADY_EXISTS,
    FailedPreconditionError: Status.FAILED_PRECONDITION,
    InvalidArgumentError: Status.INVALID_ARGUMENT,
}
_CHUNK = 100  # snapshots in one message of List, at the most
_CHUNK_SIZE = 1 << 20  # bytes after which it is full, too; clients take 4 MiB unless told otherwise

_log = logging.getLogger("reflayer.containerd")


class Servicer:
    """Each method of the service, by the protocol's name; ``snapshotter`` in requests is ours."""

    def __init__(self, snapshotter: Snapshotter, metrics: Metrics) -> None:
        self._snapshotter = snapshotter
        self._metrics = metrics
        self._running = 0
        self.idle = asyncio.Event()  # set while no request is being answered
        self.idle.set()

    def __mapping__(self) -> dict[str, Handler]:
        """The handlers by path, as grpclib takes a service."""
        return {
            f"/{_SERVICE.full_name}/{method.name}": Handler(
                partial(_stream if method.server_streaming else _one, getattr(self, method.name)),
                Cardinality.UNARY_STREAM if method.server_streaming else Cardinality.UNARY_UNARY,
                getattr(messages, method.input_type.name, Empty),
                getattr(messages, method.output_type.name, Empty),
            )
            for method in _SERVICE.methods
        }

    async def Prepare(  # noqa: N802
        self, request: messages.PrepareSnapshotRequest
    ) -> messages.PrepareSnapshotResponse:
        key, parent = request.key, request.parent
        async with self._answering("Prepare", key=key, parent=parent):
            mount = await self._snapshotter.create(Kind.ACTIVE, key, parent, request.labels)
            return messages.PrepareSnapshotResponse(mounts=[_mount(mount)])

    async def View(  # noqa: N802
        self, request: messages.ViewSnapshotRequest
    ) -> messages.ViewSnapshotResponse:
        key, parent = request.key, request.parent
        async with self._answering("View", key=key, parent=parent):
            mount = await self._snapshotter.create(Kind.VIEW, key, parent, request.labels)
            return messages.ViewSnapshotResponse(mounts=[_mount(mount)])

    async def Mounts(self, request: messages.MountsRequest) -> messages.MountsResponse:  # noqa: N802
        async with self._answering("Mounts", key=request.key):
            mount = await self._snapshotter.mounts(request.key)
            return messages.MountsResponse(mounts=[_mount(mount)])

    async def Commit(self, request: messages.CommitSnapshotRequest) -> Empty:  # noqa: N802
        name, key, parent = request.name, request.key, request.parent
        async with self._answering("Commit", key=key, committed=name, parent=parent):
            await self._snapshotter.commit(name, key, parent, request.labels)
            return Empty()

    async def Remove(self, request: messages.RemoveSnapshotRequest) -> Empty:  # noqa: N802
        async with self._answering("Remove", key=request.key):
            await self._snapshotter.remove(request.key)
            return Empty()

    async def Stat(  # noqa: N802
        self, request: messages.StatSnapshotRequest
    ) -> messages.StatSnapshotResponse:
        async with self._answering("Stat", key=request.key):
            return messages.StatSnapshotResponse(info=_info(self._snapshotter.stat(request.key)))

    async def Update(  # noqa: N802
        self, request: messages.UpdateSnapshotRequest
    ) -> messages.UpdateSnapshotResponse:
        info, paths = request.info, request.update_mask.paths
        async with self._answering("Update", key=info.name):
            snapshot = await self._snapshotter.update(info.name, info.labels, paths)
            return messages.UpdateSnapshotResponse(info=_info(snapshot))

    async def List(  # noqa: N802
        self,
        request: messages.ListSnapshotsRequest,
        send: Callable[[messages.ListSnapshotsResponse], Awaitable[None]],
    ) -> None:
        async with self._answering("List", filters=list(request.filters)):
            for chunk in _chunks(map(_info, self._snapshotter.walk(request.filters))):
                await send(messages.ListSnapshotsResponse(info=chunk))

    async def Usage(self, request: messages.UsageRequest) -> messages.UsageResponse:  # noqa: N802
        async with self._answering("Usage", key=request.key):
            size, inodes = await self._snapshotter.usage(request.key)
            return messages.UsageResponse(size=size, inodes=inodes)

    async def Cleanup(self, _request: messages.CleanupRequest) -> Empty:  # noqa: N802
        async with self._answering("Cleanup"):
            await self._snapshotter.cleanup()
            return Empty()

    @asynccontextmanager
    async def _answering(self, name: str, **fields: object) -> AsyncIterator[None]:
        """The block answers one request; what it raises becomes a status and one line of text."""
        self._running += 1
        self.idle.clear()
        try:
            with self._metrics.operation("containerd", name, **fields):
                yield
        except SnapshotError as error:
            raise GRPCError(_STATUSES[type(error)], str(error)) from error
        except ReflayerError as error:
            # As containerd's own snapshotters do with what it has no word for.
            raise GRPCError(Status.UNKNOWN, str(error)) from error
        except Exception as error:
            _log.exception("%s: a mistake in reflayer", name)
            raise GRPCError(Status.UNKNOWN, f"a mistake in reflayer: {error!r}") from error
        finally:
            self._running -= 1
            if not self._running:
                self.idle.set()


async def _one(method: Callable[[Any], Awaitable[Any]], stream: Stream[Any, Any]) -> None:
    await stream.send_message(await method(await _request(stream)))


async def _stream(method: Callable[[Any, Any], Awaitable[None]], stream: Stream[Any, Any]) -> None:
    await method(await _request(stream), stream.send_message)


async def _request(stream: Stream[Any, Any]) -> Any:
    try:
        request = await stream.recv_message()
    except NotImplementedError as error:
        raise GRPCError(Status.UNIMPLEMENTED, "the request is compressed") from error
    except (DecodeError, AssertionError) as error:
        raise GRPCError(Status.INTERNAL, f"the request cannot be read: {error}") from error
    if request is None:
        raise GRPCError(Status.INTERNAL, "the request has no message")
    return request


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
    return mount_pb2.Mount(type=mount.type, source=mount.source, options=mount.options)


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
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)
