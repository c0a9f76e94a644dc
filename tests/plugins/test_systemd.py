"""What systemd and a daemon tell each other: sockets, readiness, the stop."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.file_systems import require
from tests.plugins.daemons import Client, daemon, lines, until


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind(str(path))
        one.listen()
        yield one


def test_a_restart_under_socket_activation_loses_no_request(tmp_path: Path) -> None:
    with _listening(tmp_path / "socket") as systemd:
        early = Client(tmp_path / "socket")
        early.send("ping")  # before anybody is there to answer
        for _ in range(2):
            with daemon(lines(tmp_path), sockets=[systemd]) as process:
                assert early.answer() == "pong"
                process.terminate()
                _, errors = process.communicate(timeout=60)
                assert process.returncode == 0, errors
            assert (tmp_path / "socket").is_socket()  # it is systemd's
            early = Client(tmp_path / "socket")
            early.send("ping")  # between two


def test_the_right_one_of_several_sockets_is_taken(tmp_path: Path) -> None:
    with _listening(tmp_path / "other") as other, _listening(tmp_path / "socket") as ours:
        with daemon(lines(tmp_path), sockets=[other, ours]) as process:
            assert Client(tmp_path / "socket").ask("ping") == "pong"
            process.terminate()
            _, errors = process.communicate(timeout=60)
        assert f"systemd listens at {tmp_path}/other, and nothing serves it" in errors


def test_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    with _listening(tmp_path / "socket"):
        environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
        with daemon(lines(tmp_path), environment=environment) as process:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 1
    assert "another process listens there" in errors


def test_systemd_itself_starts_it_at_the_first_connection(tmp_path: Path) -> None:
    require("systemd-socket-activate")
    command = ["systemd-socket-activate", f"--listen={tmp_path / 'socket'}", *lines(tmp_path)]
    with daemon(command) as process:
        client = Client(tmp_path / "socket")
        assert client.ask("ping") == "pong"
        process.terminate()
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("is_abstract", [False, True])
def test_readiness_and_stop_are_told(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@reflayer-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        manager.settimeout(60)
        with daemon(lines(tmp_path), environment={"NOTIFY_SOCKET": name}) as process:
            assert manager.recv(4096) == b"READY=1\nSTATUS=serving lines"
            assert Client(tmp_path / "socket").ask("ping") == "pong"  # at once
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096).startswith(b"STOPPING=1\n")
            assert process.wait(timeout=60) == 0
    until(lambda: not (tmp_path / "socket").exists())
