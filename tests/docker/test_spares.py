"""Spares that the plugin keeps: a container and its init layer are one that was there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflayer.driver.clone_times import boot_id
from reflayer.driver.home import opened
from reflayer.driver.spares import Spares, all_spares
from reflayer.linux.libc import birth_time
from reflayer.workers.lock import locked
from tests.archive.tars import entry, tar
from tests.docker.client import Client
from tests.docker.daemons import Plugin, folder_for_plugin, running, wait_until
from tests.driver.layers import at_rest, fill, tree
from tests.trees import assert_same

_IMAGE = ("base", "top")


@pytest.fixture
def start() -> Iterator[Callable[..., Plugin]]:
    """Starts a plugin with options, as often as it is called."""
    with folder_for_plugin() as folder:
        plugins: list[Plugin] = []

        def start(*options: str) -> Plugin:
            place = folder / str(len(plugins))
            place.mkdir()
            plugins.append(Plugin(place, *options))
            plugins[-1].start()
            return plugins[-1]

        yield start
        for plugin in plugins:
            plugin.kill()


@pytest.fixture
def home(place_on: Callable[[str], Path]) -> Iterator[Path]:
    """A folder on XFS for layers, in which nobody works any more after the test."""
    place = place_on("xfs") / "home"
    yield place
    at_rest(place)


def client_of(plugin: Plugin, home: Path) -> Client:
    client = Client(plugin.socket)
    client.call("Init", Home=str(home))
    return client


def image(client: Client) -> None:
    """An image of two layers."""
    client.call("Create", ID="base")
    fill(client.layer("base"))
    client.call("Create", ID="top", Parent="base")
    client.apply("top", tar(entry("new", b"new" * 1000)), "base")


def container(client: Client, id: str, parent: str = "top") -> Path:
    """What Docker asks for to make one; where it is."""
    client.call("Create", ID=f"{id}-init", Parent=parent)
    init = Path(str(client.call("Get", ID=f"{id}-init")["Dir"]))
    (init / ".dockerenv").touch()
    client.call("Put", ID=f"{id}-init")
    client.call("CreateReadWrite", ID=id, Parent=f"{id}-init")
    return client.layer(id)


def counts(home: Path) -> dict[str, tuple[int, int]]:
    return {one.layer: (one.wanted, one.ready) for one in all_spares(str(home))}


def ready(home: Path, *, wanted: int, layer: str = "top") -> set[int]:
    """The inodes of the spares, when all that are wanted are there."""
    wait_until(lambda: counts(home) == {layer: (wanted, wanted)})
    at_rest(home)
    [one] = all_spares(str(home))
    return inodes(one)


def inodes(spares: Spares) -> set[int]:
    return {os.stat(path).st_ino for path in spares.paths}


def changed(client: Client, id: str) -> list[str]:
    told = client.call("Changes", ID=id, Parent=f"{id}-init")["Changes"]
    assert isinstance(told, list)
    return [one["Path"] for one in told]


def born(path: Path) -> tuple[int, int | None]:
    """What tells a folder from one that has its inode number after it."""
    with opened(str(path)) as fd:
        return os.fstat(fd).st_ino, birth_time(fd)


def test_a_container_and_its_init_layer_are_one_spare(
    start: Callable[..., Plugin], home: Path
) -> None:
    client = client_of(start(), home)
    image(client)
    first = container(client, "first")
    there = ready(home, wanted=1)
    second = container(client, "second")
    assert {second.stat().st_ino} == there
    assert (home / "differences/second-init").is_dir()
    assert not (home / "dir/second-init").exists()
    for path in (first, second):
        os.utime(path / ".dockerenv", (1, 1))
        os.utime(path, (1, 1))
    assert_same(tree(first), tree(second))
    assert there.isdisjoint(ready(home, wanted=2))  # the next are made behind


def test_what_is_told_of_it_is_what_was_changed_in_it(
    start: Callable[..., Plugin], home: Path
) -> None:
    client = client_of(start(), home)
    image(client)
    container(client, "first")
    there = ready(home, wanted=1)
    path = container(client, "second")
    assert path.stat().st_ino in there
    assert changed(client, "second") == []
    (path / "written").write_text("x")
    (path / "new").write_text("changed")
    assert changed(client, "second") == ["/new", "/written"]
    assert client.call("DiffSize", ID="second", Parent="second-init")["Size"] == 8
    archive = client.diff("second", "second-init")
    client.call("Create", ID="committed", Parent="top")
    assert client.apply("committed", archive, "top") == 8
    again = container(client, "third", "committed")
    assert (again / "new").read_text() == "changed"
    for folder in (again, path):
        os.utime(folder / ".dockerenv", (1, 1))
        os.utime(folder, (1, 1))
    assert_same(tree(path), tree(again))
    at_rest(home)


def test_without_spares_none_are_made_and_those_that_are_there_go(
    start: Callable[..., Plugin], home: Path
) -> None:
    plugin = start()
    client = client_of(plugin, home)
    image(client)
    container(client, "first")
    ready(home, wanted=1)
    plugin.stop()
    client = client_of(start("--spares=0"), home)
    assert counts(home) == {}
    container(client, "second")
    at_rest(home)
    assert counts(home) == {}


@pytest.mark.parametrize(
    ("kind", "option"), [("ext4", "--spares=4"), ("xfs", "--method=range"), ("btrfs", "--spares=4")]
)
def test_they_are_kept_where_blocks_are_shared(
    start: Callable[..., Plugin], place_on: Callable[[str], Path], kind: str, option: str
) -> None:
    home = place_on(kind) / "home"
    client = client_of(start(option), home)
    image(client)
    for number in range(3):
        container(client, f"box{number}")
    if kind == "btrfs":
        there = ready(home, wanted=3)
        init = home / "dir/last-init"
        container(client, "last")
        assert init.stat().st_ino == 256  # of each subvolume
        assert there == {256}
        wait_until(lambda: counts(home) == {"top": (4, 4)})
    at_rest(home)
    assert set(counts(home)) == ({"top"} if kind == "btrfs" else set())


def test_the_steps_of_a_build_are_no_containers(start: Callable[..., Plugin], home: Path) -> None:
    client = client_of(start(), home)
    image(client)
    client.call("Create", ID="3k2j4l5k3j4l5k3j4l5k3j4l5", Parent="top")
    assert (client.layer("3k2j4l5k3j4l5k3j4l5k3j4l5") / "new").exists()
    assert counts(home) == {}


def test_they_go_with_the_layer_of_the_image(start: Callable[..., Plugin], home: Path) -> None:
    client = client_of(start(), home)
    image(client)
    container(client, "first")
    ready(home, wanted=1)
    for id in ("first", "first-init", "top"):
        client.call("Remove", ID=id)
    assert counts(home) == {}
    wait_until(lambda: os.listdir(home / "trash") == [])
    spares = home / "spares" / (boot_id() or "")
    assert os.listdir(spares) == []


def test_a_container_with_a_size_is_none(start: Callable[..., Plugin], home: Path) -> None:
    client = client_of(start(), home)
    image(client)
    container(client, "first")
    there = ready(home, wanted=1)
    error = client.error("CreateReadWrite", ID="box", Parent="top", StorageOpt={"size": "1G"})
    assert "quota" in error
    client.call("CreateReadWrite", ID="box", Parent="top", StorageOpt={"size": "0"})
    assert {client.layer("box").stat().st_ino} == there


def test_a_killed_plugin_and_the_next_one_hand_none_out_twice(
    start: Callable[..., Plugin], home: Path
) -> None:
    plugin = start()
    client = client_of(plugin, home)
    image(client)
    for number in range(3):
        container(client, f"before{number}")
    there = ready(home, wanted=3)
    plugin.kill()
    client = client_of(start(), home)
    with locked(f"{home}/spares.lock"):
        made = [container(client, f"after{number}").stat().st_ino for number in range(4)]
    assert set(made[:3]) == there
    assert made[3] not in there
    container(client, "last")
    ready(home, wanted=4)


def test_two_plugins_of_one_home_hand_none_out_twice(
    start: Callable[..., Plugin], home: Path
) -> None:
    clients = [client_of(start("--spares=8"), home) for _ in range(2)]
    image(clients[0])
    for number in range(8):
        container(clients[0], f"before{number}")
    there = ready(home, wanted=8)
    made: list[int] = []
    failed: list[BaseException] = []

    def make(client: Client, name: str) -> None:
        try:
            for number in range(6):
                path = container(client, f"{name}{number}")
                made.append(path.stat().st_ino)
        except BaseException as error:
            failed.append(error)

    makers = [
        threading.Thread(target=make, args=(client, f"box{number}"))
        for number, client in enumerate(clients)
    ]
    with locked(f"{home}/spares.lock"):
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
    assert failed == []
    assert len(set(made)) == 12
    assert there <= set(made)


@pytest.mark.usefixtures("undisturbed")
def test_what_is_removed_while_one_is_missing_is_a_spare_again(
    start: Callable[..., Plugin], home: Path
) -> None:
    client = client_of(start("--recycle"), home)
    image(client)
    container(client, "first")
    ready(home, wanted=1)
    with locked(f"{home}/spares.lock"):
        box = container(client, "box")
    was = born(box)
    (box / "written").write_text("x")
    (box / "new").write_text("changed")
    os.unlink(box / "link")
    client.call("Remove", ID="box")
    client.call("Remove", ID="box-init")
    ready(home, wanted=2)
    made = [container(client, f"again{number}") for number in range(2)]
    assert was in map(born, made)
    for path in made:
        os.utime(path / ".dockerenv", (1, 1))
        os.utime(path, (1, 1))
    assert_same(tree(made[0]), tree(made[1]))
    at_rest(home)
    assert sorted(os.listdir(home / "dir")) == ["again0", "again1", "base", "first"]


@pytest.mark.parametrize(("options", "count"), [([], 0), (["--recycle"], 1)])
def test_what_is_removed_is_to_be_a_spare_only_where_that_is_asked_for(
    start: Callable[..., Plugin], home: Path, options: list[str], count: int
) -> None:
    client = client_of(start(*options), home)
    image(client)
    container(client, "first")
    ready(home, wanted=1)
    with locked(f"{home}/spares.lock"):
        container(client, "box")
        client.call("Remove", ID="box")
        assert len([*(home / "spares").rglob("*.used")]) == count


def test_a_container_of_docker_s_is_a_spare(
    file_system: Callable[[str], Path], busybox: Path
) -> None:
    data = file_system("xfs") / "spares"
    with running(data) as (docker, _):
        docker.run("import", busybox, "busybox")
        docker.run("create", "--name=first", "busybox", "true")
        [(layer, _)] = counts(data / "reflayer").items()
        there = ready(data / "reflayer", wanted=1, layer=layer)
        docker.run("run", "--name=box", "--network=none", "busybox", "sh", "-c", "echo x >/new")
        assert {docker.layer("box").stat().st_ino} == there
        assert docker.run("diff", "box") == "A /new"
        docker.run("commit", "box", "changed")
        said = docker.run("run", "--rm", "--network=none", "changed", "cat", "/new")
        assert said == "x"
        docker.run("rm", "first", "box")
        docker.run("rmi", "changed", "busybox")
        at_rest(data / "reflayer")
        assert counts(data / "reflayer") == {}
