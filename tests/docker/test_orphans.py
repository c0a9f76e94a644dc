"""What was made of a request that failed, or that nobody answered, goes; what is known stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.plugins.docker import orphans
from reflayer.plugins.docker.home import Daemon
from reflayer.plugins.docker.orphans import remove_orphans
from reflayer.workers.pool import usable_cpus
from tests.docker.client import Client, Connection
from tests.docker.daemons import (
    Dockerd,
    Plugin,
    folder_for_plugin,
    running,
    wait_until,
)

_ID = "0123456789abcdef" * 4
_DIES = """
import os, signal
from contextlib import contextmanager
from reflayer.cli import main
from reflayer.plugins.docker import orphans, server

@contextmanager
def die(driver, id, parent):
    with orphans.until_answered(driver, id, parent):
        yield
        if WHICH(id, parent):
            os.kill(os.getpid(), signal.SIGKILL)

server.until_answered = die
main()
"""
_NEVER_ENDS = """
import time
from reflayer.cli import main
from reflayer.driver import Driver
from reflayer.plugins.service import Work

async def note(self, function):
    print("a clone is asked for", flush=True)
    return await copy(self, function)

copy, Work.copy = Work.copy, note

def clone(self, id, parent, *, progress, **_):
    with self.build(id, parent):
        while True:
            progress("clone", 0, None)
            time.sleep(0.01)

Driver.create = clone
Driver.take_over = lambda *_, **__: False  # which would need no clone
main()
"""
_WHICH = {
    "a container's first layer": 'lambda id, parent: id.endswith("-init")',
    "a container's own layer": 'lambda id, parent: parent == id + "-init"',
    "an image's layer": 'lambda id, parent: not (parent or id).endswith("-init")',
}


def dying(which: str) -> tuple[str, ...]:
    """A ``reflayer`` that kills itself when it has made such a layer, just before the answer."""
    return (sys.executable, "-c", _DIES.replace("WHICH", f"({which})"))


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    """A plugin for one test, which may end it."""
    with folder_for_plugin() as folder:
        plugin = Plugin(folder)
        plugin.start()
        yield plugin
        plugin.kill()


@pytest.fixture
def home(place_on: Callable[[str], Path]) -> Path:
    """The home's path."""
    return place_on("xfs") / "home"


@pytest.fixture
def client(plugin: Plugin, home: Path) -> Client:
    """A client that has told its home, with the layers ``image`` and those of ``_ID``'s parent."""
    client = Client(plugin.socket)
    client.call("Init", Home=str(home))
    client.call("Create", ID="image")
    client.call("CreateReadWrite", ID=f"{_ID}-init", Parent="image")
    return client


def layers(home: Path) -> set[str]:
    """The ids of the layers in ``home``, whole or not."""
    return {path.name for folder in ("dir", "differences") for path in home.glob(f"{folder}/*")}


def notes(home: Path) -> list[str]:
    """The notes in ``home``."""
    return os.listdir(home / "unanswered")


def restart(plugin: Plugin, client: Client) -> None:
    """Kill the plugin, and start it until its home is open."""
    plugin.kill()
    plugin.start()
    client.call("Status")


def test_a_container_s_first_layer_goes_when_its_own_cannot_be_made(
    client: Client, home: Path
) -> None:
    ask = {"ID": _ID, "Parent": f"{_ID}-init"}
    assert "not supported" in client.error("CreateReadWrite", **ask, StorageOpt={"color": "red"})
    assert layers(home) == {"image"}
    assert notes(home) == []


def test_no_other_parent_goes_with_a_layer_that_cannot_be_made(client: Client, home: Path) -> None:
    for parent in ("image", "image-init", f"{_ID}-init"):
        client.ask("Create", ID=parent)
        assert client.error("CreateReadWrite", ID="new", Parent=parent, StorageOpt={"color": "red"})
    assert layers(home) == {"image", "image-init", f"{_ID}-init"}


def test_a_layer_that_is_asked_for_again_stays_with_its_parent(
    client: Client, plugin: Plugin, home: Path
) -> None:
    ask = {"ID": _ID, "Parent": f"{_ID}-init"}
    client.call("CreateReadWrite", **ask)
    assert "exists already" in client.error("CreateReadWrite", **ask)
    restart(plugin, client)
    assert layers(home) == {"image", _ID, f"{_ID}-init"}
    assert notes(home) == []


def test_layers_of_clients_that_have_gone_go_too_those_that_waited_for_their_turn_as_well(
    client: Client, plugin: Plugin, home: Path
) -> None:
    ids = [f"{number:064x}" for number in range(usable_cpus() + 2)]  # so many are made at once, +2
    for id in ids:
        client.call("CreateReadWrite", ID=f"{id}-init", Parent="image")
    plugin.program = (sys.executable, "-c", _NEVER_ENDS)
    restart(plugin, client)
    connections = [Connection(client.path) for _ in ids]
    for id, connection in zip(ids, connections, strict=True):
        body = json.dumps({"ID": id, "Parent": f"{id}-init"}).encode()
        connection.request("POST", "/GraphDriver.CreateReadWrite", body)
    wait_until(lambda: plugin.log.read_text().count("a clone is asked for") == len(ids))
    wait_until(lambda: len(notes(home)) == 2 * usable_cpus())  # each with its lock file
    for connection in connections:
        connection.close()
    wait_until(lambda: layers(home) == {"image", f"{_ID}-init"})
    wait_until(lambda: notes(home) == [])


def test_what_a_plugin_made_that_died_before_it_answered_goes(
    client: Client, plugin: Plugin, home: Path
) -> None:
    plugin.stop()
    plugin.program = dying(_WHICH["a container's own layer"])
    plugin.start()
    with pytest.raises(ConnectionError):
        client.call("CreateReadWrite", ID=_ID, Parent=f"{_ID}-init")
    assert layers(home) == {"image", _ID, f"{_ID}-init"}
    plugin.program = Plugin.program
    restart(plugin, client)
    assert layers(home) == {"image"}
    assert notes(home) == []
    client.call("CreateReadWrite", ID=_ID, Parent="image")


@pytest.mark.parametrize("note", ["another-boot container", "unknown container", ""])
def test_a_note_that_may_be_older_than_the_answer_removes_nothing(
    client: Client, plugin: Plugin, home: Path, note: str
) -> None:
    client.call("CreateReadWrite", ID=_ID, Parent=f"{_ID}-init")
    (home / f"unanswered/{_ID}.lock").touch()
    if note:
        (home / f"unanswered/{_ID}").symlink_to(note)
    restart(plugin, client)
    assert layers(home) == {"image", _ID, f"{_ID}-init"}
    assert notes(home) == []


def test_what_another_process_is_making_stays(client: Client, home: Path) -> None:
    making = (
        "import sys; from reflayer.driver import Driver;"
        "from reflayer.plugins.docker.orphans import until_answered;"
        "driver = Driver(sys.argv[1]); making = until_answered(driver, 'new', None);"
        "making.__enter__(); driver.create('new'); print(flush=True); sys.stdin.read();"
        "making.__exit__(None, None, None)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", making, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        client.call("Init", Home=str(home))
        assert "exists already" in client.error("Create", ID="new")
        assert "new" in layers(home)
    client.call("Init", Home=str(home))
    assert "new" in layers(home)
    assert notes(home) == []


def test_a_process_that_has_the_number_of_a_dead_daemon_is_not_it(
    client: Client, plugin: Plugin, home: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        record = Path(f"{plugin.socket}.init")
        _, body = record.read_bytes().split(b"\n", 1)
        was = Daemon(other.pid, Daemon.running(other.pid).started - 1)
        record.write_bytes(f"{was}\n".encode() + body)
        restart(plugin, client)
        assert layers(home) == {"image", f"{_ID}-init"}
        client.call("Init", Home=str(tmp_path / "second"))
        other.kill()


def test_a_record_of_an_older_plugin_names_its_daemon_by_the_number_alone(
    client: Client, plugin: Plugin, tmp_path: Path
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as daemon:
        record = Path(f"{plugin.socket}.init")
        _, body = record.read_bytes().split(b"\n", 1)
        record.write_bytes(b"%d\n%s" % (daemon.pid, body))
        restart(plugin, client)
        assert f"process id {daemon.pid}" in client.error("Init", Home=str(tmp_path / "second"))
        daemon.kill()
        os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)  # dead, but not waited for
        client.call("Init", Home=str(tmp_path / "second"))


@pytest.fixture(scope="module")
def both(file_system: Callable[[str], Path], busybox: Path) -> Iterator[tuple[Dockerd, Plugin]]:
    """A daemon and its plugin."""
    with running(file_system("xfs") / "unanswered") as (dockerd, plugin):
        dockerd.run("import", busybox, "busybox")
        yield dockerd, plugin


@pytest.mark.parametrize("which", _WHICH)
def test_a_plugin_killed_between_a_layer_and_its_answer_leaves_nothing(
    both: tuple[Dockerd, Plugin], busybox: Path, which: str
) -> None:
    docker, plugin = both
    home = docker.data / "reflayer"
    before = layers(home)
    plugin.stop()
    plugin.program = dying(_WHICH[which])
    plugin.start()
    command = docker.command(
        *(["import", busybox, "other"] if "image" in which else ["create", "busybox", "true"])
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=docker.environment()) as asking:
        wait_until(lambda: not is_running(plugin.pid))
        assert layers(home) != before
        plugin.kill()
        plugin.program = Plugin.program
        plugin.start()
        asking.communicate(timeout=60)
    assert asking.returncode != 0
    assert layers(home) == before
    assert notes(home) == []
    wait_until(lambda: os.listdir(home / "tmp") + os.listdir(home / "trash") == [])
    docker.run("rm", docker.run("create", "busybox", "true"))
    assert layers(home) == before


def test_a_first_layer_whose_container_nobody_asked_for_goes_after_a_while(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(place / "home")
    for id in ("alone-init", "both-init", "both", "image"):
        driver.create(id)
    remove_orphans(driver)
    assert "alone-init" in driver.list()
    monkeypatch.setattr(orphans, "_ALONE", 0.0)
    remove_orphans(driver)
    assert driver.list() == ["both", "both-init", "image"]


def test_doctor_tells_the_layers_that_the_daemon_has_no_record_of(
    both: tuple[Dockerd, Plugin],
) -> None:
    docker, plugin = both
    made = docker.run("create", "busybox", "true")
    assert forgotten(docker) == []
    client = Client(plugin.socket)
    buildkit = "0a1b2c3d4e5f6g7h8i9j0k1l2"
    for id in (_ID, f"{_ID}-init", buildkit):
        client.call("CreateReadWrite", ID=id)
    layer = f"{docker.data}/reflayer/dir/{_ID}"
    assert forgotten(docker) == [layer, f"{layer}-init"]
    told = subprocess.run(
        [*Plugin.program, "doctor", docker.data], capture_output=True, text=True, check=True
    ).stdout
    assert f"\n  {layer}\n  {layer}-init\n" in told
    for id in (_ID, f"{_ID}-init", buildkit):
        client.call("Remove", ID=id)
    docker.run("rm", made)


def forgotten(docker: Dockerd) -> object:
    """The layers that ``reflayer doctor`` says are on no record."""
    command = [*Plugin.program, "doctor", "--json", str(docker.data)]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert any("no record" in advice for advice in told["advice"]) is bool(told["forgotten"])
    return told["forgotten"]


def is_running(process: int) -> bool:
    """Whether it runs, and is not only waited for."""
    return Daemon.running(process).started != 0
