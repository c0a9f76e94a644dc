"""Layers that are sent and received: whole, or visibly not, and never held in memory."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.archive.tars import entry, tar
from tests.docker.client import Client, Connection
from tests.docker.daemons import Plugin, running_plugin, wait_until
from tests.driver.layers import fill, tree

_PIECE = 1 << 20
_PIECES = 96  # more than the plugin may take of memory


@pytest.fixture(scope="module")
def plugin() -> Iterator[Plugin]:
    """A plugin for all tests here."""
    with running_plugin() as plugin:
        yield plugin


@pytest.fixture
def home(place_on: Callable[[str], Path]) -> Path:
    """A daemon's home."""
    return place_on("xfs") / "home"


@pytest.fixture
def client(plugin: Plugin, home: Path) -> Iterator[Client]:
    """A client that has told its home."""
    client = Client(plugin.socket)
    client.call("Init", Home=str(home))
    yield client
    client.call("Cleanup")


def write_large(path: Path) -> None:
    """A file of ``_PIECES``."""
    with open(path, "wb") as file:
        for number in range(_PIECES):
            file.write(bytes([number]) * _PIECE)


def peak(plugin: Plugin) -> int:
    """Most bytes that its process has had in memory so far."""
    status = Path(f"/proc/{plugin.pid}/status").read_text()
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_a_layer_that_was_sent_is_the_same_where_it_is_applied(client: Client) -> None:
    client.call("Create", ID="parent")
    fill(client.layer("parent"))
    client.call("CreateReadWrite", ID="child", Parent="parent")
    child = client.layer("child")
    (child / "folder/file").unlink()
    (child / "added").write_text("added")
    archive = client.diff("child", "parent")
    client.call("Create", ID="copy", Parent="parent")
    assert client.apply("copy", archive, "parent") == len("added")
    client.call("Create", ID="whole")
    client.apply("whole", client.diff("copy"))
    for copy in ("copy", "whole"):
        assert tree(client.layer(copy)) == tree(child)


def test_a_diff_of_what_is_not_there_is_no_archive(client: Client) -> None:
    client.call("Create", ID="layer")
    for members in ({"ID": "absent"}, {"ID": "layer", "Parent": "absent"}):
        status, body = client.post("GraphDriver.Diff", json.dumps(members).encode())
        assert status == 500
        assert json.loads(body) == {"Err": "there is no layer absent"}


def test_a_large_layer_passes_through_without_being_held(client: Client, plugin: Plugin) -> None:
    client.call("Create", ID="large")
    write_large(client.layer("large") / "file")
    client.call("Create", ID="copy")
    client.apply("copy", client.diff("copy"))  # what is imported is
    before = peak(plugin)
    client.apply("copy", client.diff("large"))
    grown = peak(plugin) - before
    files = [client.layer(id) / "file" for id in ("large", "copy")]
    sums = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    assert sums[0] == sums[1]
    assert grown < 32 << 20


def test_a_layer_that_goes_while_it_is_sent_breaks_off(client: Client) -> None:
    client.call("Create", ID="large")
    write_large(client.layer("large") / "file")
    connection = Connection(client.path)
    connection.request("POST", "/GraphDriver.Diff", b'{"ID": "large"}')
    answer = connection.getresponse()
    assert answer.status == 200
    answer.read(_PIECE)
    client.call("Remove", ID="large")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()


def test_a_client_that_does_not_read_on_leaves_nothing_open(client: Client, plugin: Plugin) -> None:
    client.call("Create", ID="large")
    write_large(client.layer("large") / "file")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{plugin.pid}/fd"))

    before = descriptors()
    for _ in range(5):
        connection = Connection(client.path)
        connection.request("POST", "/GraphDriver.Diff", b'{"ID": "large"}')
        connection.getresponse().read(10)
        connection.close()
    wait_until(lambda: descriptors() <= before)


@pytest.mark.parametrize("archive", [b"no tar at all" * 1000, tar(entry("../x"))[:700]])
def test_what_is_no_archive_is_an_error_and_no_layer(
    client: Client, home: Path, archive: bytes
) -> None:
    client.call("Create", ID="layer")
    assert isinstance(client.apply("layer", archive), str)
    assert client.call("Exists", ID="layer") == {"Exists": False}
    assert list((home / "tmp").iterdir()) == []


def test_an_error_is_told_when_all_was_sent(client: Client) -> None:
    client.call("Create", ID="layer")
    assert isinstance(client.apply("layer", [b"\xff" * _PIECE] * 64), str)


def test_a_client_that_breaks_off_leaves_no_layer(client: Client, home: Path) -> None:
    client.call("Create", ID="layer")
    connection = Connection(client.path)
    connection.putrequest("POST", "/GraphDriver.ApplyDiff?id=layer&parent=")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    archive = tar(entry("first", b"content"), entry("second"))[:1024]
    connection.send(b"%x\r\n%s\r\n" % (len(archive), archive))
    wait_until(lambda: not (home / "dir/layer").exists())
    connection.close()
    wait_until(lambda: not any((home / "tmp").iterdir()))
    assert client.call("Exists", ID="layer") == {"Exists": False}


def test_a_clone_is_abandoned_when_its_client_goes(client: Client, home: Path) -> None:
    client.call("Create", ID="wide")
    wide = client.layer("wide")
    (wide / "0").touch()
    for number in range(1, 20_000):
        os.link(wide / "0", wide / str(number))
    connection = Connection(client.path)
    connection.request("POST", "/GraphDriver.CreateReadWrite", b'{"ID":"clone","Parent":"wide"}')
    wait_until(lambda: any((home / "tmp").glob("clone.*")))
    connection.close()
    wait_until(lambda: not any((home / "tmp").iterdir()))
    assert client.call("Exists", ID="clone") == {"Exists": False}


def test_short_requests_do_not_wait_for_clones(client: Client, home: Path) -> None:
    client.call("Create", ID="wide")
    wide = client.layer("wide")
    (wide / "0").touch()
    for number in range(1, 5_000):
        os.link(wide / "0", wide / str(number))
    clones = [f"clone{number}" for number in range(6)]
    threads = [
        threading.Thread(
            target=client.call, args=("CreateReadWrite",), kwargs={"ID": id, "Parent": "wide"}
        )
        for id in clones
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: any((home / "tmp").iterdir()))
    assert client.layer("wide") == wide
    assert threads[-1].is_alive()  # so the answer came before the clones were there
    for thread in threads:
        thread.join()
    assert all(client.call("Exists", ID=id) == {"Exists": True} for id in clones)


def test_a_stop_waits_for_a_layer_that_is_being_applied(
    client: Client, plugin: Plugin, home: Path
) -> None:
    client.call("Create", ID="layer")
    sizes: list[object] = []
    begun, go_on = threading.Event(), threading.Event()
    archive = tar(entry("first", b"content"))

    def pieces() -> Iterator[bytes]:
        yield archive[:600]
        begun.set()
        go_on.wait(60)
        yield archive[600:]

    sending = threading.Thread(target=lambda: sizes.append(client.apply("layer", pieces())))
    sending.start()
    assert begun.wait(60)
    wait_until(lambda: not (home / "dir/layer").exists())
    stopping = threading.Thread(target=plugin.stop)
    stopping.start()
    wait_until(lambda: not plugin.socket.exists())
    go_on.set()
    sending.join()
    stopping.join()
    assert sizes == [len("content")]
    assert (home / "dir/layer/first").read_text() == "content"
    plugin.start()


def test_ids_are_those_of_the_container_on_the_way(client: Client, home: Path) -> None:
    ids = [{"container_id": 0, "host_id": 100_000, "size": 65_536}]
    client.call("Init", Home=str(home), UIDMaps=ids, GIDMaps=ids)
    client.call("Create", ID="layer")
    client.apply("layer", tar(entry("file", uid=5, gid=7)))
    status = (home / "dir/layer/file").stat()
    assert (status.st_uid, status.st_gid) == (100_005, 100_007)
    client.call("Create", ID="copy")
    client.apply("copy", client.diff("layer"))
    assert (home / "dir/copy/file").stat().st_uid == 100_005
