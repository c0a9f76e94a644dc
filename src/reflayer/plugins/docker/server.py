"""Docker's plugin protocol over HTTP: each request to its call, each outcome to its answer.

Docker's side of it, with what it makes of answers, is in moby's pkg/plugins and
daemon/graphdriver/proxy.go. An error goes in ``Err``: with status 200 where the answer is JSON, so
that the user reads it as it is, and with another where Docker would take the body for a layer.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import struct
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import BinaryIO, cast
from weakref import WeakSet

import aiohttp
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from reflayer.driver import Driver
from reflayer.errors import ArchiveError, ReflayerError, ServiceError
from reflayer.plugins.docker.calls import (
    CLONES,
    SHORT,
    WALKS,
    InitRequest,
    LayerRequest,
    RequestError,
    get,
    get_what_is_there,
)
from reflayer.plugins.docker.home import Home, NotInitialisedError
from reflayer.plugins.docker.orphans import forget, until_answered
from reflayer.plugins.unix_socket import BACKLOG, listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from aiohttp import StreamReader

    from reflayer.copy import CopyReport
    from reflayer.plugins.docker.calls import Answer, Call, Clone
    from reflayer.plugins.service import Metrics, Operation, Work
    from reflayer.progress import Progress

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PIECE = 1 << 20  # bytes of a layer that are read at once
_IDLE = 30.0  # seconds that a connection may take to send its request
_LOOK = 0.02  # seconds between two looks at what still runs
_LAST_LOOK = 1.0  # seconds in which the request of a connection that was accepted comes
_NEVER = 10 * 365 * 86400.0  # seconds: what runs is finished

_DIFF = "/GraphDriver.Diff"

_log = logging.getLogger("reflayer.docker")


class DockerService:
    """The graph driver at its socket."""

    name = "docker"

    def __init__(
        self,
        work: Work,
        metrics: Metrics,
        open_driver: Callable[..., Driver] = Driver,
        *,
        socket: str,
    ) -> None:
        """Not served yet. ``open_driver`` opens the home that a daemon names.

        Raises:
            ServiceError: aiohttp is too old to tell of clients that went away.
        """
        if tuple(map(int, aiohttp.__version__.split(".")[:2])) < (3, 9):
            raise ServiceError(f"aiohttp 3.9 or later is needed, this one is {aiohttp.__version__}")
        self._socket = socket
        self._work = work
        self._home = Home(socket, open_driver)
        logging.getLogger("aiohttp.server").addFilter(_in_one_line)
        self._handlers = _Handlers(self._home, work, metrics)
        self._runner = web.AppRunner(
            self._handlers.application(),
            access_log=None,  # metrics.operation logs
            handler_cancellation=True,
            read_bufsize=_PIECE,
            shutdown_timeout=_NEVER,
        )
        metrics.layers(self.name, self._home.count, self._home.spares)

    async def start(self) -> None:
        listening = listen(self._socket)
        try:
            await self._work.run(self._home.resume)
            await self._runner.setup()
            self._site = web.SockSite(self._runner, listening, backlog=BACKLOG)
            await self._site.start()
        except BaseException:
            listening.close()
            raise
        self._closing = asyncio.create_task(self._close_idle())

    async def stop(self) -> None:
        await self._site.stop()
        self._closing.cancel()
        waited = 0.0
        # cleanup() reads no more of what a client is sending.
        while connections := self._connections():
            await asyncio.sleep(_LOOK)
            waited += _LOOK
            if waited > _LAST_LOOK:
                self._close(connections)
        await self._runner.cleanup()

    async def _close_idle(self) -> None:
        """Close connections that send no request: each takes a descriptor from the others."""
        idle: set[web.RequestHandler] = set()
        while True:
            await asyncio.sleep(_IDLE)
            self._close(idle)
            idle = self._connections()

    def _connections(self) -> set[web.RequestHandler]:
        return set() if self._runner.server is None else {*self._runner.server.connections}

    def _close(self, connections: Iterable[web.RequestHandler]) -> None:
        for connection in connections:
            if connection.transport not in self._handlers.begun:
                connection.force_close()


class _Handlers:
    """The handlers of all requests."""

    def __init__(self, home: Home, work: Work, metrics: Metrics) -> None:
        self._home = home
        self._work = work
        self._metrics = metrics
        # The connections whose request has come, at least its head.
        self.begun: WeakSet[asyncio.Transport] = WeakSet()

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._errors])
        application.on_response_prepare.append(_close_after)
        add = application.router.add_post
        add("/Plugin.Activate", _activate)
        add("/GraphDriver.Capabilities", _capabilities)
        add("/GraphDriver.Init", self._init)
        add("/GraphDriver.Cleanup", self._cleanup)
        for name, clone in CLONES.items():
            add(f"/GraphDriver.{name}", partial(self._clone, name, clone))
        add("/GraphDriver.Get", self._get)
        for name, call in SHORT.items():
            add(f"/GraphDriver.{name}", partial(self._short, name, call))
        for name, walk in WALKS.items():
            add(f"/GraphDriver.{name}", partial(self._walk, name, walk))
        add(_DIFF, self._diff)
        add("/GraphDriver.ApplyDiff", self._apply)
        return application

    async def _init(self, http: web.Request) -> web.Response:
        body = await _document(http)
        with self._answering("Init"):
            request = InitRequest.parse(body)
            await self._work.run(self._home.init, request, _peer(http))
            return _answer({})

    async def _cleanup(self, _: web.Request) -> web.Response:
        with self._answering("Cleanup"):
            await self._work.run(self._home.cleanup)
            return _answer({})

    async def _clone(self, name: str, clone: Clone, http: web.Request) -> web.Response:
        async with self._about_a_layer(name, http) as (request, _):
            driver = self._home.driver
            begun = False

            def make(progress: Progress) -> CopyReport | None:
                nonlocal begun
                begun = True
                with until_answered(driver, request.id, request.parent):
                    report = clone(driver, request, progress)
                    progress("clone", 0, None)  # for whom is it still?
                return report

            try:
                report = await self._work.copy(make)
            except BaseException:
                if not begun:
                    await self._work.run(forget, driver, request.id, request.parent)
                raise
            self._metrics.copied(report)
            return _answer({})

    async def _get(self, http: web.Request) -> web.Response:
        async with self._about_a_layer("Get", http) as (request, _):
            driver = self._home.driver
            found = await self._work.run(get_what_is_there, driver, request)
            if found is None:
                found = await self._work.copy(lambda _: get(driver, request))
            return _answer(found)

    async def _short(self, name: str, call: Call, http: web.Request) -> web.Response:
        async with self._about_a_layer(name, http) as (request, _):
            return _answer(await self._work.run(call, self._home.driver, request))

    async def _walk(self, name: str, walk: Call, http: web.Request) -> web.Response:
        async with self._about_a_layer(name, http) as (request, _):
            driver = self._home.driver
            # Encoded there, too: it may be long.
            return await self._work.stream(lambda _: _answer(walk(driver, request)))

    async def _diff(self, http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        async with self._about_a_layer("Diff", http) as (request, operation):
            driver = self._home.driver
            try:
                layer = await self._work.run(driver.diff, request.id, request.parent)
                try:
                    piece = await self._work.stream(lambda _: layer.read(_PIECE))
                    await response.prepare(http)
                    while piece:
                        await response.write(piece)
                        piece = await self._work.stream(lambda _: layer.read(_PIECE))
                finally:
                    await self._work.run(layer.close)
            except (ReflayerError, ConnectionError) as error:
                if not response.prepared:
                    raise
                # Docker sees from the missing end alone that this is not all of the layer.
                has_gone = isinstance(error, ConnectionError)
                operation.outcome = "cancelled" if has_gone else "failed"
                operation.error = str(error)
                if http.transport is not None:
                    http.transport.abort()
        return response

    async def _apply(self, http: web.Request) -> web.Response:
        id = http.query.get("id", "")
        with self._answering("ApplyDiff", id=id, parent=http.query.get("parent", "")):
            driver = self._home.driver
            body = cast("BinaryIO", _Body(http.content, asyncio.get_running_loop()))
            try:
                size = await self._work.stream(lambda _: driver.apply(id, body))
            except ReflayerError:
                await _read_rest(http.content)
                raise
            await _read_rest(http.content)
            return _answer({"Size": size})

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error as Docker reads it."""
        if request.transport is not None:
            self.begun.add(request.transport)
        try:
            return await handler(request)
        except ReflayerError as error:
            return _answer({"Err": str(error)}, status=500 if request.path == _DIFF else 200)
        except (ConnectionError, web.RequestPayloadError) as error:  # the client has gone, or lies
            return _answer({"Err": str(error)}, status=400)
        except TimeoutError:
            return _answer({"Err": f"no request came within {_IDLE:.0f} s"}, status=408)
        except web.HTTPException as error:
            return _answer({"Err": f"{request.path}: {error.reason}"}, status=error.status)
        except Exception as error:
            _log.exception("%s: a mistake in reflayer", request.path)
            return _answer({"Err": f"a mistake in reflayer: {error!r}"}, status=500)

    @contextmanager
    def _answering(self, name: str, **fields: str) -> Iterator[Operation]:
        """The block answers a request; one that asks for what cannot be is no failure of ours."""
        with self._metrics.operation("docker", name, **fields) as operation:
            try:
                yield operation
            except (RequestError, NotInitialisedError):
                operation.outcome = "refused"
                raise

    @asynccontextmanager
    async def _about_a_layer(
        self, name: str, http: web.Request
    ) -> AsyncIterator[tuple[LayerRequest, Operation]]:
        """Answer a request about a layer, which the log names."""
        body = await _document(http)
        try:
            request = LayerRequest.parse(body)
        except RequestError:
            with self._answering(name):
                raise
        told = {"id": request.id, "parent": request.parent}
        fields = {name: value for name, value in told.items() if value}
        with self._answering(name, **fields) as operation:
            yield request, operation


async def _activate(_: web.Request) -> web.Response:
    return _answer({"Implements": ["GraphDriver"]})


async def _capabilities(_: web.Request) -> web.Response:
    # Not the bytes of an archive that was applied: Docker keeps their order itself (tar-split).
    return _answer({"Capabilities": {"ReproducesExactDiffs": False}})


async def _document(request: web.Request) -> bytes:
    """The body of a request that is no layer, if it comes in time."""
    async with asyncio.timeout(_IDLE):
        return await request.read()


async def _close_after(_: web.Request, response: web.StreamResponse) -> None:
    """One request a connection: Docker loses one that it sends as a server closes an idle one."""
    response.headers["Connection"] = "close"
    response.force_close()


async def _read_rest(content: StreamReader) -> None:
    """Read what the client is still sending: Docker takes an answer before that for a failure."""
    try:
        async for _ in content.iter_any():
            pass
    except Exception as error:  # of many kinds: aiohttp hands on what ended the connection
        raise ConnectionResetError("the client broke off before its end") from error


def _answer(answer: Answer, status: int = 200) -> web.Response:
    kind = "application/vnd.docker.plugins.v1.2+json"
    return web.Response(text=json.dumps(answer), status=status, content_type=kind)


def _peer(http: web.Request) -> int:
    """The process id of the client; 0 where it is of another namespace."""
    assert http.transport is not None
    connection = http.transport.get_extra_info("socket")
    ucred = struct.Struct("3i")  # process, user, group; unix(7)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size)
    return int(ucred.unpack(credentials)[0])


class _Body(io.RawIOBase):
    """A request's body as a file for a thread; no more of it is received than that has room for."""

    def __init__(self, content: StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        self._content = content
        self._loop = loop

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Wait for ``size`` bytes, or fewer at the end.

        A client sends small pieces. To hand over each by itself would take longer than to use it.
        """
        reading = asyncio.run_coroutine_threadsafe(self._gather(size), self._loop)
        try:
            return reading.result()
        except Exception as error:  # of many kinds: aiohttp hands on what ended the connection
            raise ArchiveError("the client broke off before its end") from error

    async def _gather(self, size: int) -> bytes:
        pieces = [await self._content.read(size)]
        while pieces[-1] and (size := size - len(pieces[-1])):
            pieces.append(await self._content.read(size))
        return b"".join(pieces)


def _in_one_line(record: logging.LogRecord) -> bool:
    """Log what is no HTTP without aiohttp's traceback: it is a client's mistake."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError):
        record.msg, record.args = "what a client sent is no HTTP: %s", (str(error)[:200],)
        record.exc_info = None
    return True
