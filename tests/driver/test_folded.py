"""A container takes over the folder of the layer below it, which stays a layer all the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
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
    assert_same(before, tree(driver.path("box-init")))
    assert folders(driver) == ["box", "box-init", "image"]
    assert list(driver.changes("box-init", "image")) == shown
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


def test_another_start_finds_it_and_each_way_of_asking_makes_it_again(driver: Driver) -> None:
    before = tree(driver.path("box-init"))
    asks: list[Callable[[Driver], object]] = [
        lambda again: again.get("box-init"),
        lambda again: again.diff_size("box", "box-init"),
        lambda again: again.create("other", "box-init"),
        lambda again: again.metadata("box-init"),
    ]
    for ask in asks:
        assert driver.take_over("box", "box-init")
        again = Driver(driver.home)
        assert again.exists("box-init")
        assert folders(driver) == ["box", "image"]
        ask(again)
        assert "box-init" in folders(driver)
        assert_same(before, tree(again.path("box-init")))
        assert os.listdir(f"{driver.home}/folded") == []
        again.put("box-init")
        again.remove("other")
        again.remove("box")


def test_what_it_was_cloned_from_can_go(driver: Driver) -> None:
    before = tree(driver.path("box-init"))
    driver.take_over("box", "box-init")
    driver.remove("image")
    assert driver.list() == ["box", "box-init"]
    assert_same(before, tree(driver.path("box-init")))


def test_it_can_itself_be_what_a_folded_layer_was_cloned_from(driver: Driver) -> None:
    driver.take_over("box", "box-init")
    driver.create("upper-init", "box")
    edited = Path(driver.path("upper-init"))
    (edited / "more").touch()
    before = tree(edited)
    driver.take_over("upper", "upper-init")
    driver.path("box-init")
    assert driver.take_over("last", "box")
    driver.remove("last")
    driver.remove("image")
    assert_same(before, tree(driver.path("upper-init")))
    assert_same(before, tree(driver.path("upper")))


def test_what_is_removed_folded_is_gone(driver: Driver) -> None:
    driver.take_over("box", "box-init")
    driver.remove("box-init")
    assert not driver.exists("box-init")
    with pytest.raises(LayerError, match="there is no layer box-init"):
        driver.path("box-init")
    with pytest.raises(LayerError, match="there is no layer box-init"):
        driver.take_over("next", "box-init")
    assert os.listdir(f"{driver.home}/folded") == []
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


def test_snapshots_are_not_folded(place_on: Callable[[str], Path]) -> None:
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


def test_many_may_ask_for_it_at_once(driver: Driver) -> None:
    before = tree(driver.path("box-init"))
    driver.take_over("box", "box-init")
    drivers = [driver, Driver(driver.home)]
    failures: list[Exception] = []

    def ask(number: int) -> None:
        try:
            drivers[number % 2].path("box-init")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_same(before, tree(driver.path("box-init")))
    assert leftovers(driver) == []


@pytest.mark.parametrize("left", [0, 5, 700])
def test_one_that_a_crash_of_the_machine_cut_off_is_an_error_and_can_be_removed(
    driver: Driver, left: int
) -> None:
    driver.take_over("box", "box-init")
    os.truncate(f"{driver.home}/folded/box-init", left)
    again = Driver(driver.home)
    with pytest.raises(LayerError, match="layer box-init was lost when the machine crashed"):
        again.path("box-init")
    assert leftovers(again) == []
    again.remove("image")
    again.remove("box-init")
    assert again.list() == ["box"]


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
        assert os.listdir(f"{driver.home}/folded") == []
        wait_until(lambda: leftovers(Driver(driver.home)) == [])
