"""Connections are passed on whole, in both directions, no faster than the other side takes them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import reflayer
from reflayer.plugins.frames import goaway
from reflayer.plugins.listening import listen
from reflayer.plugins.relay import Relay

_FRAME = b"\0\0\x05\0\0\0\0\0\x01hello"  # of HTTP/2: length, type, flags, stream, payload
_MUCH = os.urandom(1 << 22)
_PYTHONS = {sys.executable} | {path for path in ("/usr/bin/python3",) if os.path.exists(path)}
_HASTY = """
import asyncio, socket, sys
sys.path.insert(0, sys.argv[1])
from reflayer.plugins.listening import listen
from reflayer.plugins.relay import Relay

async def echo(reader, writer):
    writer.write(await reader.read(99))
    writer.close()

async def main(outer, inner):
    server = await asyncio.start_unix_server(echo, inner)
    relay = Relay(listen(outer), inner)
    await relay.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(outer)
        client.send(b"said")
        client.setblocking(False)
        print((await asyncio.get_running_loop().sock_recv(client, 99)).decode())
    await relay.close()
    server.close()

asyncio.run(main(sys.argv[2] + "/outer", sys.argv[2] + "/inner"))
"""


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def _relay(folder: Path) -> AsyncIterator[tuple[Relay, str]]:
    """A relay to a server that sends back what it gets, and the path to connect to."""
    path = str(folder / "outer")
    server = await asyncio.start_unix_server(_echo, folder / "inner")
    relay = Relay(listen(path), str(folder / "inner"))
    await relay.start()
    yield relay, path
    await relay.close()
    server.close()


async def _send_and_take(path: str, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    taken = await reader.readexactly(len(data))
    writer.close()
    return taken


def test_many_connections_get_back_what_they_sent(tmp_path: Path) -> None:
    async def use() -> None:
        async with _relay(tmp_path) as (_, path):
            taken = await asyncio.gather(*(_send_and_take(path, _MUCH[n:]) for n in range(16)))
            assert all(one == _MUCH[n:] for n, one in enumerate(taken))

    asyncio.run(use())


@pytest.mark.parametrize("python", sorted(_PYTHONS))
def test_what_a_client_says_at_once_arrives(tmp_path: Path, python: str) -> None:
    # How asyncio begins to read a connection has changed within Python 3.11.
    where = [str(Path(reflayer.__file__).parent.parent), str(tmp_path)]
    done = subprocess.run([python, "-c", _HASTY, *where], stdout=subprocess.PIPE, timeout=60)
    assert done.stdout == b"said\n"


def test_a_client_that_takes_nothing_stops_the_flow(tmp_path: Path) -> None:
    async def use() -> None:
        async with _relay(tmp_path) as (_, path):
            _, writer = await asyncio.open_unix_connection(path, limit=1)
            sent = 0
            try:
                while sent < 1 << 28:
                    writer.write(_MUCH)
                    await asyncio.wait_for(writer.drain(), timeout=1)
                    sent += len(_MUCH)
            except TimeoutError:
                pass
            assert sent < 1 << 28, "it was all kept in memory"
            writer.transport.abort()

    asyncio.run(use())


def test_who_is_sent_away_is_told_so_between_two_frames_and_served_until_he_goes(
    tmp_path: Path,
) -> None:
    async def use() -> None:
        async with _relay(tmp_path) as (relay, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(_FRAME + _FRAME[:11])
            assert await reader.readexactly(len(_FRAME) + 11) == _FRAME + _FRAME[:11]
            relay.send_away()
            assert not os.path.exists(path)
            writer.write(_FRAME[11:] + _FRAME)
            expected = _FRAME[11:] + goaway() + _FRAME
            told = await reader.readexactly(len(expected))
            assert told in (expected, _FRAME[11:] + _FRAME + goaway())
            assert not await relay.left(0.01)
            writer.write(_FRAME)
            assert await reader.readexactly(len(_FRAME)) == _FRAME
            writer.close()
            assert await relay.left(60)

    asyncio.run(use())


def test_who_is_between_two_frames_is_sent_away_at_once(tmp_path: Path) -> None:
    async def use() -> None:
        async with _relay(tmp_path) as (relay, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(_FRAME)
            assert await reader.readexactly(len(_FRAME)) == _FRAME
            relay.send_away()
            assert await reader.readexactly(len(goaway())) == goaway()
            writer.close()

    asyncio.run(use())


def test_who_was_just_accepted_is_told_after_the_first_frame(tmp_path: Path) -> None:
    async def use() -> None:
        async with _relay(tmp_path) as (relay, path):
            reader, writer = await asyncio.open_unix_connection(path)
            while await relay.left(0):  # not accepted yet
                await asyncio.sleep(0)
            relay.send_away()
            writer.write(_FRAME)
            expected = _FRAME + goaway()
            assert await reader.readexactly(len(expected)) == expected
            writer.close()

    asyncio.run(use())


def test_a_close_does_not_wait_for_those_who_stay(tmp_path: Path) -> None:
    async def use() -> None:
        async with _relay(tmp_path) as (relay, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            await relay.close()
            assert await reader.read() == b""
            writer.close()

    asyncio.run(use())


def test_the_end_of_either_side_ends_the_other(tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def use() -> None:
        server = await asyncio.start_unix_server(greet, tmp_path / "inner")
        relay = Relay(listen(str(tmp_path / "outer")), str(tmp_path / "inner"))
        await relay.start()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "outer")
        assert await reader.read() == b"hello"
        writer.close()
        server.close()
        await server.wait_closed()
        (tmp_path / "inner").unlink(missing_ok=True)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "outer")
        assert await reader.read() == b""  # there is no server any more
        writer.close()
        await relay.close()

    asyncio.run(use())
