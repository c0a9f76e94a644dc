"""Whatever a client sends or keeps to itself, the plugin answers in a line and goes on."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reflayer.plugins.docker.calls import CLONES, SHORT, WALKS
from tests.docker.client import Client
from tests.docker.daemons import Plugin, folder_for_plugin

_TEXTS = ["", "\0", "\ud800", "..", "é\n", "x" * 5000, "9" * 5000, "9" * 400 + ".5", "a/" * 3000]
_VALUES: st.SearchStrategy[object] = st.recursive(
    st.sampled_from([*_TEXTS, -1, 1 << 32, 1 << 70, 1e308, True, None]),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.sampled_from(["container_id", "host_id", "size", *_TEXTS]), values)
    ),
    max_leaves=5,
)
_MEMBERS = ["Home", "Opts", "UIDMaps", "GIDMaps", "ID", "Parent", "MountLabel", "StorageOpt"]
_HEAD = b"POST /GraphDriver.Create HTTP/1.1\r\nHost: x\r\n"
_IMPATIENT = """
from reflayer.plugins.docker import server
server._IDLE = 0.2
from reflayer.cli import main
main()
"""


@contextmanager
def _plugin(*program: str) -> Iterator[Plugin]:
    with folder_for_plugin() as folder:
        plugin = Plugin(folder)
        plugin.program = program or plugin.program
        plugin.start()
        try:
            yield plugin
        finally:
            assert plugin.stop() == 0
        log = plugin.log.read_text()
        assert "Traceback" not in log
        assert max(map(len, log.splitlines())) < 10_000


@pytest.fixture(scope="module")
def plugin() -> Iterator[Plugin]:
    """A plugin for all tests here."""
    with _plugin() as plugin:
        yield plugin


@pytest.fixture(scope="module")
def client(plugin: Plugin, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client of it that has told its home."""
    client = Client(plugin.socket)
    client.call("Init", Home=str(tmp_path_factory.mktemp("home")))
    return client


@settings(max_examples=300)
@given(
    name=st.sampled_from(["Diff", "Init", *CLONES, *SHORT, *WALKS]),
    members=st.dictionaries(st.sampled_from(_MEMBERS), _VALUES),
)
@example("Init", {"Home": "/proc/home", "Opts": ["size=" + "9" * 5000]})
@example("Init", {"Home": "/proc" + "/a" * 2000})
@example("CreateReadWrite", {"ID": "layer", "StorageOpt": {"size": "9" * 400 + ".5"}})
def test_any_request_is_answered(client: Client, name: str, members: dict[str, object]) -> None:
    _assert_answered(client, name, json.dumps(members))


@pytest.mark.parametrize("member", ["Home", "UIDMaps", "Opts", "ID", "StorageOpt", "Else"])
@pytest.mark.parametrize("depth", [500, 900, 100_000])
def test_any_depth_of_a_request_is_answered(client: Client, member: str, depth: int) -> None:
    for name in ("Init", "Create"):
        text = f'{{"Home": "/proc/home", "{member}": {"[" * depth}{"]" * depth}}}'
        _assert_answered(client, name, text)


def _assert_answered(client: Client, name: str, text: str) -> None:
    begun = time.monotonic()
    status, body = client.post(f"GraphDriver.{name}", text.encode())
    assert time.monotonic() - begun < 5
    assert status in (200, 500 if name == "Diff" else 200)
    error = json.loads(body).get("Err", "")
    assert "mistake" not in error
    assert "\n" not in error
    assert len(error) < 5000


def test_a_home_may_be_as_deep_as_a_path_is_long(plugin: Plugin, tmp_path: Path) -> None:
    client = Client(plugin.socket)
    home = f"{tmp_path}{'/a' * 1900}"
    client.call("Init", Home=home)
    client.call("Create", ID="layer")
    assert client.layer("layer") == Path(home, "dir/layer")
    subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)  # rmtree is not up to it


@pytest.mark.parametrize(
    "request_",
    [
        _HEAD + b"Content-Length: -5\r\n\r\n",
        _HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc",
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\nabc",
        _HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        _HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        _HEAD.replace(b"Create", b"ApplyDiff") + b"Content-Encoding: gzip\r\n"
        b"Content-Length: 3\r\n\r\nabc",
        _HEAD + b"X: y\r\n" * 20_000 + b"\r\n",
        _HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\0" * 1000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST //\xff?%zz HTTP/1.1\r\nHost: \xff\r\n\r\n",
    ],
    ids=lambda request: repr(request[-40:]),
)
def test_what_is_no_http_is_refused(client: Client, request_: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(client.path))
        connection.sendall(request_)
        assert connection.recv(1000).split()[1].startswith(b"4")
    assert client.post("Plugin.Activate")[0] == 200


def _connected(stack: ExitStack, plugin: Plugin, count: int) -> list[socket.socket]:
    connections = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(count)]
    for connection in connections:
        connection.connect(str(plugin.socket))
        connection.settimeout(10)
    return connections


def test_idle_connections_keep_nobody_out_and_hold_up_no_stop() -> None:
    few = ["sh", "-c", 'ulimit -S -n 200; exec "$@"', "sh", *Plugin.program]
    with ExitStack() as stack, _plugin(*few) as plugin:
        _connected(stack, plugin, 300)
        assert Client(plugin.socket).post("Plugin.Activate")[0] == 200
        begun = time.monotonic()
        assert plugin.stop() == 0
        assert time.monotonic() - begun < 30


def test_who_sends_no_request_in_time_is_sent_away() -> None:
    with _plugin(sys.executable, "-c", _IMPATIENT) as plugin, ExitStack() as stack:
        for part in (b"", _HEAD[:20], _HEAD):
            (connection,) = _connected(stack, plugin, 1)
            connection.sendall(part)
            assert connection.recv(1000) == b""
        (connection,) = _connected(stack, plugin, 1)
        connection.sendall(_HEAD + b"Content-Length: 5\r\n\r\n{")
        assert b" 408 " in connection.recv(1000)
