"""Connections of clients: sent away at a stop, and served until they go."""

from __future__ import annotations

import asyncio
import os
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.const import Cardinality, Handler
from grpclib.server import Stream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, StreamEnded

from reflayer.plugins.containerd import server
from reflayer.plugins.containerd.server import Connections
from reflayer.plugins.unix_socket import listen

_HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
_EMPTY = bytes(5)  # a message without fields behind its length
_GOAWAY = bytes((0, 0, 8, 7, 0)) + bytes(4) + ((1 << 31) - 1).to_bytes(4) + bytes(4)  # NO_ERROR
_MUCH = 1 << 13


class Service:
    """Answers one method when ``may_answer`` is set, and the other with much, again and again.

    Attributes:
        begun: how many requests of the first have come.
        sent: bytes that the other has sent.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.sent = 0
        self.may_answer = asyncio.Event()

    async def wait(self, stream: Stream[Empty, Empty]) -> None:
        request = await stream.recv_message()
        assert request is not None
        self.begun += 1
        await self.may_answer.wait()
        await stream.send_message(request)

    async def flood(self, stream: Stream[Empty, Empty]) -> None:
        await stream.recv_message()
        much = Empty()
        much.MergeFromString(b"\x7a\x80\x40" + bytes(_MUCH))  # a field that nobody knows
        while True:
            await stream.send_message(much)
            self.sent += _MUCH

    def __mapping__(self) -> dict[str, Handler]:
        return {
            "/test/wait": Handler(self.wait, Cardinality.UNARY_UNARY, Empty, Empty),
            "/test/flood": Handler(self.flood, Cardinality.UNARY_STREAM, Empty, Empty),
        }


class Client:
    """One connection that speaks HTTP/2.

    Attributes:
        h2: its state.
        events: what has happened on it.
        is_sent_away: whether it was told to begin nothing more, and that nothing begun is lost.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self.is_sent_away = False

    def ask(self, path: str) -> bytes:
        """A request, to be sent."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, [(":path", path), *_HEADERS])
        self.h2.send_data(number, _EMPTY, end_stream=True)
        return self.h2.data_to_send()

    async def told(self, kind: type[Event], count: int = 1) -> list[Event]:
        """The events of a kind, when there are so many."""
        async with asyncio.timeout(60):
            while True:
                found = [event for event in self.events if isinstance(event, kind)]
                if len(found) >= count:
                    return found
                await self.hear()

    async def hear(self) -> None:
        """Take what comes next; the good-bye apart, after which h2 would take nothing more."""
        data = await self.reader.read(1 << 16)
        assert data, self.events
        self.is_sent_away |= _GOAWAY in data
        self.events += self.h2.receive_data(data.replace(_GOAWAY, b""))

    async def sent_away(self) -> None:
        """Return when it is sent away."""
        async with asyncio.timeout(60):
            while not self.is_sent_away:
                await self.hear()


@asynccontextmanager
async def connections(folder: Path) -> AsyncIterator[tuple[Connections, Service, str]]:
    """Those to a service at a socket."""
    path = str(folder / "socket")
    service = Service()
    served = Connections([service])
    await served.accept(listen(path))
    yield served, service, path
    await served.close()


async def connect(path: str) -> Client:
    return Client(*await asyncio.open_unix_connection(path))


async def until_begun(service: Service, count: int) -> None:
    async with asyncio.timeout(60):
        while service.begun < count:
            await asyncio.sleep(0.001)


def test_who_is_sent_away_is_told_so_and_served_until_he_goes(tmp_path: Path) -> None:
    async def use() -> None:
        async with connections(tmp_path) as (served, service, path):
            client = await connect(path)
            client.writer.write(client.ask("/test/wait"))
            await until_begun(service, 1)
            served.send_away()
            assert not os.path.exists(path)
            client.writer.write(client.ask("/test/wait"))  # before it hears of that
            await until_begun(service, 2)
            await client.sent_away()
            assert not await served.left(0.01)
            service.may_answer.set()
            await client.told(StreamEnded, 2)
            client.writer.close()
            assert await served.left(60)

    asyncio.run(use())


def test_who_has_just_come_is_sent_away_after_the_settings(tmp_path: Path) -> None:
    async def use() -> None:
        async with connections(tmp_path) as (served, _, path):
            client = await connect(path)
            while await served.left(0):  # not accepted yet
                await asyncio.sleep(0)
            served.send_away()
            client.writer.write(client.h2.data_to_send())
            await client.sent_away()
            client.writer.close()
            assert await served.left(60)

    asyncio.run(use())


def test_a_close_does_not_wait_for_those_who_stay(tmp_path: Path) -> None:
    async def use() -> None:
        async with connections(tmp_path) as (served, service, path):
            client = await connect(path)
            client.writer.write(client.ask("/test/wait"))
            await until_begun(service, 1)
            async with asyncio.timeout(60):
                await served.close()
                while await client.reader.read(1 << 16):
                    pass
            client.writer.close()

    asyncio.run(use())


def test_a_close_does_not_wait_for_those_who_take_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LAST_WORDS", 0.1)

    async def use() -> None:
        async with connections(tmp_path) as (served, service, path):
            with sockets.socket(sockets.AF_UNIX) as deaf:
                deaf.connect(path)
                await flooded(deaf, service)
                async with asyncio.timeout(60):
                    await served.close()

    asyncio.run(use())


def test_a_client_that_takes_nothing_stops_the_flow(tmp_path: Path) -> None:
    async def use() -> None:
        async with connections(tmp_path) as (_, service, path):
            with sockets.socket(sockets.AF_UNIX) as deaf:
                deaf.connect(path)
                sent = await flooded(deaf, service)
                assert sent < 1 << 28, "it was all kept in memory"

    asyncio.run(use())


async def flooded(deaf: sockets.socket, service: Service) -> int:
    """Ask for very much and read nothing of it; the bytes after which the server waits."""
    asking = Client(asyncio.StreamReader(), None)  # type: ignore[arg-type]  # only what it says
    asking.h2.update_settings({4: (1 << 31) - 1})  # SETTINGS_INITIAL_WINDOW_SIZE
    asking.h2.increment_flow_control_window((1 << 31) - (1 << 16))
    deaf.sendall(asking.ask("/test/flood"))
    sent = -1
    async with asyncio.timeout(60):
        while sent < service.sent or not sent:
            sent = service.sent
            await asyncio.sleep(0.2)
    return sent


def test_who_says_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HANDSHAKE", 0.05)

    async def use() -> None:
        async with connections(tmp_path) as (_, service, path):
            silent, client = await connect(path), await connect(path)
            client.writer.write(client.ask("/test/wait"))
            async with asyncio.timeout(60):
                while await silent.reader.read(1 << 16):
                    pass
            service.may_answer.set()
            await client.told(StreamEnded)
            silent.writer.close()
            client.writer.close()

    asyncio.run(use())


def test_what_nobody_knows_does_not_end_a_connection(tmp_path: Path) -> None:
    async def use() -> None:
        async with connections(tmp_path) as (_, service, path):
            client = await connect(path)
            frame = bytes((0, 0, 1, 0x42)) + bytes(6)  # RFC 9113, section 5.5: to be ignored
            client.writer.write(client.h2.data_to_send() + frame + client.ask("/test/wait"))
            service.may_answer.set()
            await client.told(StreamEnded)
            assert len(await client.told(DataReceived)) == 1
            client.writer.close()

    asyncio.run(use())
