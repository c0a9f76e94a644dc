"""What the plugin answers, in order and out of order, to a client that need not be Docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from reflayer.driver.quota import size_in_bytes
from reflayer.errors import QuotaError
from tests.archive.tars import entry, tar
from tests.docker.client import Client, Connection
from tests.docker.daemons import Plugin, folder_for_plugin, running_plugin, wait_until
from tests.driver.layers import fill, tree
from tests.file_systems import fill_up, mounted, require_root

_INIT = """
import sys
from pathlib import Path
from tests.archive.tars import entry, tar
from tests.docker.client import Client
print(Client(Path(sys.argv[1])).ask("Init", Home=sys.argv[2]))
"""


@pytest.fixture(scope="module")
def plugin() -> Iterator[Plugin]:
    """A plugin for all tests here."""
    with running_plugin() as plugin:
        yield plugin


@pytest.fixture
def client(plugin: Plugin, place_on: Callable[[str], Path]) -> Iterator[Client]:
    """A client of it that has told its home."""
    client = Client(plugin.socket)
    client.call("Init", Home=str(place_on("xfs") / "home"), Opts=None, UIDMaps=None, GIDMaps=None)
    yield client
    client.call("Cleanup")


def make(client: Client, id: str) -> Path:
    """A new layer with some of everything."""
    client.call("Create", ID=id)
    fill(client.layer(id))
    return client.layer(id)


def test_it_says_that_it_is_a_graph_driver(plugin: Plugin) -> None:
    status, body = Client(plugin.socket).post("Plugin.Activate")
    assert (status, json.loads(body)) == (200, {"Implements": ["GraphDriver"]})


def test_a_method_that_is_none_is_not_found(plugin: Plugin) -> None:
    status, body = Client(plugin.socket).post("GraphDriver.Fly", b"{}")
    assert status == 404
    assert "GraphDriver.Fly" in json.loads(body)["Err"]


def test_only_post_is_allowed(plugin: Plugin) -> None:
    connection = Connection(plugin.socket)
    connection.request("GET", "/GraphDriver.Status")
    assert connection.getresponse().status == 405


@pytest.mark.parametrize("name", ["Create", "Get", "Remove", "Status", "Changes", "DiffSize"])
def test_before_init_each_request_is_refused(plugin: Plugin, name: str) -> None:
    assert "GraphDriver.Init" in Client(plugin.socket).error(name, ID="layer")


def test_before_init_a_diff_is_no_archive(plugin: Plugin) -> None:
    status, body = Client(plugin.socket).post("GraphDriver.Diff", b'{"ID": "layer"}')
    assert status == 500
    assert "GraphDriver.Init" in json.loads(body)["Err"]


def test_init_once_more_keeps_the_layers(client: Client) -> None:
    path = make(client, "layer")
    home = str(path.parent.parent)
    client.call("Get", ID="layer")
    client.call("Init", Home=home)
    assert client.layer("layer") == path
    metadata = client.call("GetMetadata", ID="layer")["Metadata"]
    assert metadata == {"Path": str(path), "References": "0"}


def test_a_second_daemon_with_another_home_is_refused(client: Client, tmp_path: Path) -> None:
    path = make(client, "layer")
    other = [sys.executable, "-c", _INIT, str(client.path), str(tmp_path / "other")]
    told = subprocess.run(other, capture_output=True, text=True, check=True).stdout
    assert f"process id {os.getpid()}" in told
    assert client.layer("layer") == path
    assert not (tmp_path / "other").exists()


def test_a_daemon_may_have_another_home_when_the_first_has_died(
    plugin: Plugin, tmp_path: Path
) -> None:
    dead = [sys.executable, "-c", _INIT, str(plugin.socket), str(tmp_path / "first")]
    subprocess.run(dead, check=True)
    client = Client(plugin.socket)
    client.call("Init", Home=str(tmp_path / "second"))
    client.call("Cleanup")
    assert (tmp_path / "first/dir").is_dir()
    assert (tmp_path / "second/dir").is_dir()


def test_a_new_process_goes_on_with_the_home_of_the_last_one(
    client: Client, plugin: Plugin
) -> None:
    path = make(client, "layer")
    plugin.kill()
    plugin.start()
    assert client.layer("layer") == path
    assert plugin.stop() == 0
    plugin.start()
    assert client.layer("layer") == path


def test_a_new_process_has_no_home_after_cleanup(client: Client, plugin: Plugin) -> None:
    client.call("Cleanup")
    plugin.kill()
    plugin.start()
    assert "GraphDriver.Init" in client.error("Get", ID="layer")


@pytest.fixture
def own_plugin() -> Iterator[Plugin]:
    """A plugin for one test, which may end it."""
    with folder_for_plugin() as folder:
        plugin = Plugin(folder)
        plugin.start()
        yield plugin
        plugin.kill()


def test_a_new_process_does_not_make_the_home_that_has_gone(
    own_plugin: Plugin, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    Client(own_plugin.socket).call("Init", Home=str(home))
    own_plugin.kill()
    home.rename(tmp_path / "moved")
    own_plugin.start()
    assert "restart the daemon" in Client(own_plugin.socket).error("Get", ID="layer")
    assert not home.exists()
    assert f"no layers in {home} any more" in own_plugin.log.read_text()


def _of_another_user(record: Path) -> None:
    require_root()
    os.chown(record, 65534, 65534)


def _that_others_write(record: Path) -> None:
    record.chmod(0o666)


def _that_is_a_link(record: Path) -> None:
    record.rename(record.with_name("elsewhere"))
    record.symlink_to("elsewhere")


def _that_is_a_pipe(record: Path) -> None:
    record.unlink()
    os.mkfifo(record)


@pytest.mark.parametrize(
    "change", [_of_another_user, _that_others_write, _that_is_a_link, _that_is_a_pipe]
)
def test_a_record_that_is_not_ours_names_no_home(
    own_plugin: Plugin, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    Client(own_plugin.socket).call("Init", Home=str(tmp_path / "home"))
    own_plugin.kill()
    (tmp_path / "home/tmp/file").touch()  # what a home that is opened clears
    change(own_plugin.socket.with_name("reflayer.sock.init"))
    with suppress(AssertionError):  # it may listen for a moment
        own_plugin.start()
    wait_until(lambda: "reflayer.sock.init: read: " in own_plugin.log.read_text())
    assert (tmp_path / "home/tmp/file").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"[]",
        b"null",
        b'{"ID": 7}',
        b'{"ID": "layer", "Parent": []}',
        b'{"ID": "layer", "StorageOpt": {"size": 1}}',
        b'{"ID": "layer", "StorageOpt": ["size"]}',
        b'{"ID": "\xff"}',
        b"[" * 100_000,
        b"",
    ],
)
def test_what_is_no_request_is_an_error(client: Client, body: bytes) -> None:
    status, answer = client.post("GraphDriver.CreateReadWrite", body)
    assert status == 200
    assert json.loads(answer)["Err"]


def test_a_request_of_any_size_is_not_read(client: Client) -> None:
    status, _ = client.post("GraphDriver.Create", b" " * (8 << 20))
    assert status == 413


@pytest.mark.parametrize(
    "id",
    ["", ".", "..", "../x", "a/b", "/etc", "x" * 129, "a\0b", "a\nb", "\ud800", "-x", ".x"],
)
@pytest.mark.parametrize("name", ["Create", "Get", "Put", "Remove", "Exists", "DiffSize"])
def test_an_id_that_is_a_path_or_odd_is_an_error(client: Client, name: str, id: str) -> None:
    assert client.error(name, ID=id)


def test_an_archive_for_an_odd_id_is_an_error(client: Client) -> None:
    assert "no layer's id" in str(client.apply("..%2Fx", b"\0" * 1024))


@pytest.mark.parametrize(
    "members",
    [
        {"Home": "relative"},
        {"Home": ""},
        {"Home": "/nul\0"},
        {"Home": "/half \ud800"},
        {"Opts": ["size"]},
        {"Opts": ["size=much"]},
        {"Opts": ["overlay2.size=1G"]},
        {"Opts": [7]},
        {"UIDMaps": [{"container_id": 0}]},
        {"UIDMaps": [{"container_id": 0, "host_id": -1, "size": 1}]},
        {"UIDMaps": [7]},
        {"UIDMaps": [{"container_id": 5, "host_id": 100, "size": 1}]},  # it has no root
    ],
)
def test_init_refuses_what_it_does_not_know(
    client: Client, tmp_path: Path, members: dict[str, object]
) -> None:
    path = make(client, "layer")
    assert client.error("Init", **{"Home": str(tmp_path / "home"), **members})
    assert client.layer("layer") == path


def test_a_clone_is_the_same_as_its_parent(client: Client) -> None:
    parent = make(client, "parent")
    client.call("CreateReadWrite", ID="child", Parent="parent", MountLabel="system_u:x:y:s0")
    assert tree(client.layer("child")) == tree(parent)
    assert client.call("DiffSize", ID="child", Parent="parent") == {"Size": 0}


def trees(client: Client) -> set[str]:
    """The layers that have a tree."""
    return {path.name for path in client.layer("parent").parent.iterdir()}


def test_a_layer_of_an_image_has_no_tree_until_somebody_writes_into_it(
    client: Client, plugin: Plugin
) -> None:
    make(client, "parent")
    client.call("Create", ID="child", Parent="parent")
    client.call("GetMetadata", ID="child")
    client.call("CreateReadWrite", ID="container", Parent="child")
    assert trees(client) == {"parent", "container"}
    child = Path(str(client.call("Get", ID="child")["Dir"]))
    assert tree(child) == tree(client.layer("parent"))
    (child / "new").write_text("by BuildKit")
    client.call("Put", ID="child")
    plugin.kill()
    plugin.start()
    client.call("CreateReadWrite", ID="another", Parent="child")
    assert (client.layer("another") / "new").read_text() == "by BuildKit"
    assert client.call("Changes", ID="child", Parent="parent")["Changes"] == [
        {"Path": "/new", "Kind": 1}
    ]


def test_a_layer_that_was_filled_has_a_tree_while_it_is_got(
    plugin: Plugin, place_on: Callable[[str], Path]
) -> None:
    client = Client(plugin.socket)
    client.call("Init", Home=str(place_on("ext4") / "home"))
    make(client, "parent")
    client.call("Create", ID="child", Parent="parent")
    client.apply("child", tar(entry("added", b"content")), "parent")
    assert client.call("DiffSize", ID="child", Parent="parent") == {"Size": len("content")}
    assert trees(client) == {"parent"}
    for _ in range(2):
        child = Path(str(client.call("Get", ID="child")["Dir"]))
    assert {path.name for path in child.iterdir()} >= {"added", "folder", "second name"}
    for expected in ({"parent", "child"}, {"parent"}):
        client.call("Put", ID="child")
        assert trees(client) == expected
    client.call("Cleanup")


def test_trees_that_a_killed_plugin_had_go_when_the_daemon_starts(
    plugin: Plugin, place_on: Callable[[str], Path]
) -> None:
    client = Client(plugin.socket)
    home = str(place_on("ext4") / "home")
    client.call("Init", Home=home)
    make(client, "parent")
    client.call("Create", ID="child", Parent="parent")
    client.apply("child", tar(entry("added", b"content")), "parent")
    client.call("Get", ID="child")
    plugin.kill()
    plugin.start()
    assert trees(client) == {"parent", "child"}  # it may be read by the daemon still
    client.call("Init", Home=home)
    assert trees(client) == {"parent"}
    client.call("Cleanup")


def test_docker_s_layer_store_finds_the_files_of_an_archive_and_needs_no_tree(
    client: Client,
) -> None:
    (make(client, "parent") / "lib").symlink_to("folder")
    plain, linked = "a" * 64, "b" * 64
    client.call("Create", ID=plain, Parent="parent")
    client.apply(plain, tar(entry("folder/file", b"plain")), "parent")
    assert (client.layer(plain) / "folder/file").read_bytes() == b"plain"
    assert trees(client) == {"parent"}
    client.call("Create", ID=linked, Parent=plain)
    client.apply(linked, tar(entry("lib/file", b"linked")), plain)
    assert (client.layer(linked) / "lib/file").read_bytes() == b"linked"
    assert trees(client) == {"parent", linked}


def test_a_parent_that_is_not_there_is_an_error(client: Client) -> None:
    assert "no layer absent" in client.error("Create", ID="layer", Parent="absent")
    assert client.call("Exists", ID="layer") == {"Exists": False}


def test_a_layer_is_not_made_over_another(client: Client) -> None:
    before = tree(make(client, "layer"))
    assert "exists already" in client.error("Create", ID="layer")
    assert tree(client.layer("layer")) == before


def test_what_is_not_there_can_be_removed_and_put(client: Client) -> None:
    client.call("Remove", ID="absent")
    client.call("Put", ID="absent")
    assert "no layer absent" in client.error("Get", ID="absent")
    assert "no layer absent" in client.error("GetMetadata", ID="absent")


def test_references_are_counted(client: Client) -> None:
    client.call("Create", ID="layer")

    def references() -> object:
        metadata = client.call("GetMetadata", ID="layer")["Metadata"]
        assert isinstance(metadata, dict)
        return metadata["References"]

    for expected in ("1", "2"):
        client.call("Get", ID="layer")
        assert references() == expected
    for expected in ("1", "0", "0"):
        client.call("Put", ID="layer")
        assert references() == expected


def test_a_removed_id_is_free_at_once(client: Client) -> None:
    make(client, "layer")
    client.call("Remove", ID="layer")
    assert client.call("Exists", ID="layer") == {"Exists": False}
    client.call("Create", ID="layer")
    assert list(client.layer("layer").iterdir()) == []


def test_changes_have_docker_s_numbers(client: Client) -> None:
    make(client, "parent")
    client.call("CreateReadWrite", ID="child", Parent="parent")
    child = client.layer("child")
    (child / "folder/file").write_bytes(b"other")
    (child / "link").unlink()
    (child / os.fsdecode(b"new \xff")).touch()
    changes = client.call("Changes", ID="child", Parent="parent")["Changes"]
    assert isinstance(changes, list)
    assert {change["Path"]: change["Kind"] for change in changes} == {
        "/folder": 0,
        "/folder/file": 0,
        "/second name": 0,
        "/link": 2,
        "/new \ufffd": 1,
    }


def test_status_tells_how_layers_are_cloned(client: Client) -> None:
    assert client.call("Status")["Status"] == [
        ["Backing Filesystem", "xfs"],
        ["Method", "reflink"],
        ["Shared Blocks", "true"],
        ["Layers", "differences"],
    ]


def test_options_of_layers(client: Client) -> None:
    size = {"size": "1G"}
    assert "read-only layers" in client.error("Create", ID="layer", StorageOpt=size)
    # As Docker's own words are where a file system has none.
    without = client.error("CreateReadWrite", ID="layer", StorageOpt=size)
    assert without.startswith("Filesystem does not support, or has not enabled quotas: ")
    unknown = client.error("CreateReadWrite", ID="layer", StorageOpt={"colour": "red"})
    assert unknown == "Storage opt colour not supported"
    assert client.call("Exists", ID="layer") == {"Exists": False}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("1k", 1 << 10),
        ("10M", 10 << 20),
        ("1G", 1 << 30),
        ("1g", 1 << 30),
        ("1GB", 1 << 30),
        ("1GiB", 1 << 30),
        ("1 gib", 1 << 30),
        ("1.5G", 3 << 29),
        ("2t", 2 << 40),
        ("1P", 1 << 50),
        ("100b", 100),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes_are_as_docker_takes_them(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1e3", "1GG", " 1", "1  G", ".5G", "1_0", "\u0661", "9" * 30, "9000P"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(QuotaError, match="invalid size"):
        size_in_bytes(text)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
def test_all_can_be_removed_from_a_full_disk(plugin: Plugin, tmp_path: Path, kind: str) -> None:
    size = {"xfs": 320 << 20, "btrfs": 128 << 20}.get(kind, 48 << 20)
    with mounted(kind, tmp_path, size) as place:
        client = Client(plugin.socket)
        client.call("Init", Home=str(place / "home"))
        client.call("Create", ID="image")
        (client.layer("image") / "file").write_bytes(bytes(1 << 20))
        ids = ["image"]
        for number in range(3):
            for id, parent in ((f"{number}-init", "image"), (f"{number}", f"{number}-init")):
                client.call("CreateReadWrite", ID=id, Parent=parent)
                ids.insert(0, id)
        fill_up(place)
        for id in ids:
            client.call("Remove", ID=id)
            assert client.ask("Exists", ID=id)["Exists"] is False
        assert not [*(place / "home/dir").iterdir(), *(place / "home/differences").iterdir()]
        wait_until(lambda: not os.listdir(place / "home/trash"))
