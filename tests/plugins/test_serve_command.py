"""``reflayer serve``: what is wrong is told in one line, what is right is served."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.processes import PROGRAM, reflayer
from tests.plugins.daemons import Client, daemon

BOTH = ("docker", "containerd")


def _options(folder: Path) -> list[str]:
    sockets = [f"--docker-socket={folder}/docker.sock", f"--containerd-socket={folder}/c.sock"]
    return [*sockets, "--log-level=debug"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["podman"], "invalid choice: 'podman'"),
        ([], "the following arguments are required: SERVICE"),
        (["docker", "--metrics", "9500"], "'9500' is not HOST:PORT"),
        (["docker", "--metrics", "::1:9500"], "'::1:9500' is not HOST:PORT"),
        (["docker", "--metrics", "127.0.0.1:70000"], "'127.0.0.1:70000' is not HOST:PORT"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], error: str) -> None:
    done = reflayer("serve", *arguments)
    assert done.returncode == 2
    assert error in done.stderr.splitlines()[-1]


def _error(*arguments: str, status: int = 1) -> str:
    done = reflayer("serve", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    return done.stderr.splitlines()[-1]


def test_a_service_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    assert "named twice" in _error("docker", "docker", *_options(tmp_path), status=2)


def test_a_home_for_docker_is_refused(tmp_path: Path) -> None:
    assert "--home is containerd's" in _error("docker", "--home=/x", *_options(tmp_path), status=2)


def test_a_socket_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as living:
        living.bind(f"{tmp_path}/docker.sock")
        living.listen()
        error = _error("docker", *_options(tmp_path))
    assert error.startswith(f"reflayer: {tmp_path}/docker.sock: another process listens there")


@pytest.mark.parametrize(
    ("service", "module", "library"),
    [("docker", "aiohttp", "aiohttp"), ("containerd", "grpclib", "grpclib")],
)
def test_a_library_that_is_not_there_is_told(service: str, module: str, library: str) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['reflayer', 'serve', {service!r}]"
        "\nfrom reflayer.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"reflayer: the library {library} is not installed: in a checkout of reflayer: "
        f"{sys.executable} -m pip install '.[{service}]'\n"
    )


def test_both_are_served_by_one_process_with_metrics(tmp_path: Path) -> None:
    arguments = [*BOTH, *_options(tmp_path), f"--home={tmp_path}/home", "--metrics=127.0.0.1:0"]
    with daemon([*PROGRAM, "serve", *arguments]) as process:
        Client(tmp_path / "c.sock").close()
        docker = Client(tmp_path / "docker.sock")
        docker.socket.sendall(
            b"POST /Plugin.Activate HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        )
        assert "200" in docker.answer()
        assert process.stderr is not None
        match = None
        while match is None:
            match = re.search(r"metrics at (http://\S+)", process.stderr.readline())
        with urllib.request.urlopen(match[1], timeout=60) as page:
            assert b"reflayer_operation_seconds" in page.read()
        docker.close()
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert not (tmp_path / "c.sock").exists()
    assert not (tmp_path / "docker.sock").exists()
    assert "Traceback" not in errors


def test_one_that_cannot_start_stops_the_other(tmp_path: Path) -> None:
    (tmp_path / "c.sock").write_text("no socket")
    error = _error(*BOTH, *_options(tmp_path), f"--home={tmp_path}/home")
    assert "something that is no socket is there" in error
    assert not os.path.lexists(tmp_path / "docker.sock")
