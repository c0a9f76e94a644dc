"""A service's socket: root's alone, never one that another process listens at."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from reflayer.errors import ServiceError
from reflayer.plugins.unix_socket import listen
from tests.file_systems import require_root


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def test_only_the_owner_can_reach_it(tmp_path: Path) -> None:
    path = tmp_path / "made/here/socket"
    before = os.umask(0)
    try:
        with listen(str(path)):
            assert _connects(path)
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert not _connects(path)
    with listen(str(path)):
        assert _connects(path)


@pytest.mark.parametrize("backlog", [0, 5])
def test_a_living_process_keeps_its_socket(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "socket"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as living,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as queued,
    ):
        living.bind(str(path))
        living.listen(backlog)
        queued.connect(str(path))  # with a backlog of 0 the queue is full now
        with pytest.raises(ServiceError, match="another process listens there: stop it"):
            listen(str(path))
    assert path.is_socket()


def test_a_file_in_its_place_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.write_text("precious")
    with pytest.raises(ServiceError, match="something that is no socket is there"):
        listen(str(path))
    assert path.read_text() == "precious"


def test_to_close_it_unlinks_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listening = listen(str(path))
    listening.close()
    assert not path.exists()
    listening.close()


def test_to_close_it_does_not_unlink_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = listen(str(path))
    path.unlink()
    with listen(str(path)):
        first.close()
        assert _connects(path)


def test_an_event_loop_that_closes_its_server_unlinks_it(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, sock=listen(str(path)))
        assert path.is_socket()
        server.close()
        await server.wait_closed()

    asyncio.run(serve())
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_folder_where_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(ServiceError, match="others may write in it"):
        listen(str(tmp_path / "open/socket"))
    assert not list((tmp_path / "open").iterdir())


def test_a_folder_like_tmp_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    with listen(str(tmp_path / "sticky/socket")):
        pass


def test_a_path_that_no_socket_can_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="107 bytes at the most"):
        listen(str(tmp_path / ("x" * 108)))


def test_who_may_not_make_it_is_told_what_to_do(tmp_path: Path) -> None:
    require_root()
    os.seteuid(65534)
    try:
        with pytest.raises(ServiceError, match="permission denied: this needs root, or a socket"):
            listen(str(tmp_path / "socket"))
    finally:
        os.seteuid(0)
