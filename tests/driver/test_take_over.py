"""A container takes over the folder of the layer below it, which becomes a difference."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import LayerError, OperationError
from tests.driver.layers import leftovers, make, tree, wait_until
from tests.file_systems import mounted, require_root
from tests.trees import assert_same


@pytest.fixture(params=["xfs", "ext4", "tmpfs"])
def driver(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    """A driver with the layers ``image`` and ``box-init``, a clone of it that was edited."""
    driver = Driver(place_on(request.param) / "home")
    make(driver, "image")
    begin(driver, "box")
    return driver


def begin(driver: Driver, id: str) -> None:
    """Do what Docker does before it asks for a container's own layer, and a little more."""
    driver.create(f"{id}-init", "image")
    edit(Path(driver.get(f"{id}-init")))
    driver.put(f"{id}-init")


def edit(root: Path) -> None:
    (root / "dev/pts").mkdir(parents=True)
    (root / "dev/console").touch(0o600)
    (root / "mtab").symlink_to("/proc/mounts")
    (root / "fifo").unlink()
    (root / "folder/file").write_bytes(b"changed")
    os.link(root / "link", root / "folder/third name")
    os.setxattr(root / "folder", "user.own", b"\0")
    os.utime(root / "dev", ns=(3, 2**31 * 1_000_000_000 + 1))
    os.utime(root, ns=(4, -7))


def fill_up(path: Path) -> None:
    """Leave no block of the file system free."""
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def folders(driver: Driver) -> list[str]:
    return sorted(os.listdir(f"{driver.home}/dir"))


def test_the_container_has_what_a_clone_would_have_and_the_layer_below_stays(
    driver: Driver,
) -> None:
    before = tree(driver.path("box-init"))
    shown = list(driver.changes("box-init", "image"))
    assert driver.take_over("box", "box-init")
    assert folders(driver) == ["box", "image"]
    assert_same(before, tree(driver.path("box")))
    assert driver.list() == ["box", "box-init", "image"]
    assert driver.exists("box-init")
    assert driver.lower("box-init") == "image"
    driver.create("other", "box-init")
    assert_same(before, tree(driver.path("other")))
    assert_same(before, tree(driver.path("box-init")))
    told = list(driver.changes("box-init", "image"))
    assert set(shown) <= set(told)  # what got another name is in the difference as well
    assert leftovers(driver) == []


def test_only_what_the_container_changes_is_different_from_the_layer_below(
    driver: Driver,
) -> None:
    driver.take_over("box", "box-init")
    assert list(driver.changes("box", "box-init")) == []
    box = Path(driver.path("box"))
    (box / "dev/console").write_text("its own")
    (box / "mtab").unlink()
    (box / "new").touch()
    assert [(change.kind, change.path) for change in driver.changes("box", "box-init")] == [
        ("C", "/dev"),
        ("C", "/dev/console"),
        ("D", "/mtab"),
        ("A", "/new"),
    ]
    assert not (Path(driver.path("box-init")) / "new").exists()


def test_another_start_finds_it_and_what_asks_for_no_tree_makes_none(driver: Driver) -> None:
    before = tree(driver.path("box-init"))
    assert driver.take_over("box", "box-init")
    again = Driver(driver.home)
    again.diff_size("box", "box-init")
    again.diff_size("box-init", "image")
    again.create("other", "box-init")
    again.metadata("box-init")
    assert folders(driver) == ["box", "image", "other"]
    assert_same(before, tree(again.get("box-init")))


def test_what_it_was_cloned_from_can_go(driver: Driver) -> None:
    before = tree(driver.path("box-init"))
    driver.take_over("box", "box-init")
    driver.remove("image")
    assert driver.list() == ["box", "box-init"]
    assert_same(before, tree(driver.path("box-init")))


def test_it_can_itself_be_what_a_layer_was_cloned_from(driver: Driver) -> None:
    driver.take_over("box", "box-init")
    driver.create("upper-init", "box")
    edited = Path(driver.path("upper-init"))
    (edited / "more").touch()
    before = tree(edited)
    assert driver.take_over("upper", "upper-init")
    assert driver.take_over("last", "box")
    driver.remove("last")
    driver.remove("image")
    assert_same(before, tree(driver.path("upper-init")))
    assert_same(before, tree(driver.path("upper")))


def test_it_can_be_removed(driver: Driver) -> None:
    driver.take_over("box", "box-init")
    driver.remove("box-init")
    assert not driver.exists("box-init")
    with pytest.raises(LayerError, match="there is no layer box-init"):
        driver.path("box-init")
    with pytest.raises(LayerError, match="there is no layer box-init"):
        driver.take_over("next", "box-init")
    assert os.listdir(f"{driver.home}/differences") == []
    driver.remove("box")
    assert driver.list() == ["image"]


def test_nothing_is_done_where_it_cannot_be_made_again(driver: Driver) -> None:
    def refused(spoil: Callable[[Path], object]) -> None:
        begin(driver, "odd")
        spoil(Path(driver.path("odd-init")))
        before = tree(driver.path("odd-init"))
        assert not driver.take_over("odd", "odd-init")
        assert_same(before, tree(driver.path("odd-init")))
        assert not driver.exists("odd")
        driver.put("odd-init")
        driver.remove("odd-init")
        assert leftovers(driver) == []

    refused(lambda root: (root / "large").write_bytes(os.urandom(1 << 20)))
    refused(lambda root: (root / ".wh.name").touch())
    refused(lambda _: driver.get("odd-init"))
    refused(lambda _: shutil.rmtree(f"{driver.home}/cloned"))
    with socket.socket(socket.AF_UNIX) as listening:

        def listen(root: Path) -> None:
            folder = os.open(root, os.O_RDONLY)
            listening.bind(f"/proc/self/fd/{folder}/socket")
            os.close(folder)

        refused(listen)


def test_nothing_is_done_where_layers_are_snapshots(place_on: Callable[[str], Path]) -> None:
    require_root()
    driver = Driver(place_on("btrfs") / "home")
    make(driver, "image")
    begin(driver, "box")
    assert not driver.take_over("box", "box-init")
    assert folders(driver) == ["box-init", "image"]


def test_a_layer_that_is_there_is_not_replaced(driver: Driver) -> None:
    driver.create("box")
    with pytest.raises(LayerError, match="layer box exists already"):
        driver.take_over("box", "box-init")
    assert folders(driver) == ["box", "box-init", "image"]


def test_on_a_full_disk_the_layer_below_stays(tmp_path: Path) -> None:
    require_root()
    with mounted("ext4", tmp_path / "small", 64 << 20) as place:
        driver = Driver(place / "home")
        make(driver, "image")
        begin(driver, "box")
        before = tree(driver.path("box-init"))
        fill_up(place / "fill")
        with pytest.raises(OperationError, match="No space left"):
            driver.take_over("box", "box-init")
        assert not driver.exists("box")
        assert_same(before, tree(driver.path("box-init")))
        (place / "fill").unlink()
        assert driver.take_over("box", "box-init")
        assert_same(before, tree(driver.path("box-init")))


_LOOP = """
import sys
from reflayer.driver import Driver
driver = Driver(sys.argv[1])
print("ready", flush=True)
while True:
    driver.remove("box")
    driver.remove("box-init")
    driver.create("box-init", "image")
    open(driver.path("box-init") + "/added", "w").close()
    assert driver.take_over("box", "box-init")
    driver.path("box-init")
    driver.remove("box")
    driver.take_over("box", "box-init")
"""


def test_a_process_killed_at_any_moment_loses_no_layer(driver: Driver) -> None:
    dice = random.Random(7)
    driver.remove("box-init")
    image = tree(driver.path("image"))
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", _LOOP, driver.home], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(dice.random() * 0.2)
            process.send_signal(signal.SIGKILL)
        again = Driver(driver.home)
        for id in again.list():
            layer = dict(tree(again.path(id)))
            if id != "image":
                assert layer.pop(b"added", None) or id == "box-init"  # which may be quite new
                layer[b"."] = image[b"."]
            assert_same(image, layer)
        again.drop_trees()
        wait_until(lambda: leftovers(Driver(driver.home)) == [])


def folded(driver: Driver, id: str, below: str) -> None:
    """Leave of layer ``id`` what a reflayer before this one did: an archive after a line."""
    with driver.diff(id, below) as archive:
        Path(f"{driver.home}/folded/{id}").write_bytes(below.encode() + b"\n" + archive.read())
    driver.remove(id)


def test_what_was_folded_up_is_made_differences_of_by_the_next_start(driver: Driver) -> None:
    (Path(driver.home) / "folded").mkdir()
    (Path(driver.home) / "folded.lock").touch()
    driver.create("upper", "box-init")
    (Path(driver.path("upper")) / "more").touch()
    expected = {id: tree(driver.path(id)) for id in ("box-init", "upper")}
    folded(driver, "upper", "box-init")
    folded(driver, "box-init", "image")
    assert driver.list() == ["image"]
    again = Driver(driver.home)
    assert again.list() == ["box-init", "image", "upper"]
    assert folders(again) == ["image"]
    for id, before in expected.items():
        assert_same(before, tree(again.path(id)))
    assert not {"folded", "folded.lock"} & {*os.listdir(driver.home)}
    assert leftovers(again) == []


@pytest.mark.parametrize("left", [0, 3, 700])
def test_what_a_crash_of_the_machine_cut_off_is_no_layer(driver: Driver, left: int) -> None:
    (Path(driver.home) / "folded").mkdir()
    folded(driver, "box-init", "image")
    os.truncate(f"{driver.home}/folded/box-init", left)
    again = Driver(driver.home)
    assert again.list() == ["image"]
    assert not os.path.exists(f"{driver.home}/folded")
    assert leftovers(again) == []


def test_what_was_folded_up_while_its_folder_was_there_is_forgotten(driver: Driver) -> None:
    (Path(driver.home) / "folded").mkdir()
    (Path(driver.home) / "folded/box-init").write_bytes(b"image\nno archive")
    before = tree(driver.path("box-init"))
    again = Driver(driver.home)
    assert_same(before, tree(again.path("box-init")))
    assert again.lower("box-init") is None


def test_on_a_full_disk_what_was_folded_up_waits_for_the_next_start(tmp_path: Path) -> None:
    require_root()
    with mounted("ext4", tmp_path / "small", 64 << 20) as place:
        driver = Driver(place / "home")
        make(driver, "image")
        begin(driver, "box")
        before = tree(driver.path("box-init"))
        (place / "home/folded").mkdir()
        folded(driver, "box-init", "image")
        fill_up(place / "fill")
        assert Driver(driver.home).list() == ["image"]
        (place / "fill").unlink()
        assert_same(before, tree(Driver(driver.home).path("box-init")))
