"""The tree of a difference: there for whoever asks, made once, and gone when nobody holds it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reflayer.driver import Driver, trees
from reflayer.driver.clone_times import boot_id
from reflayer.driver.differences import upper_path
from reflayer.errors import LayerError, OperationError
from reflayer.workers.lock import flock
from tests.driver.layers import archive_of, leftovers, make, tree, wait_until
from tests.trees import assert_same


def begin(place: Path) -> Driver:
    """A driver with the whole layer ``base`` and the difference ``layer`` on it."""
    driver = Driver(place / "home")
    make(driver, "base")
    driver.create("whole", "base")
    archive = archive_of(driver, "whole", lambda root: (root / "added").touch())
    driver.create_difference("layer", "base")
    driver.apply("layer", archive)
    return driver


@pytest.fixture(params=["xfs", "ext4"])
def driver(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    return begin(place_on(request.param))


@pytest.fixture
def ext4(place_on: Callable[[str], Path]) -> Driver:
    """Where no blocks are shared."""
    return begin(place_on("ext4"))


@pytest.fixture
def xfs(place_on: Callable[[str], Path]) -> Driver:
    """Where they are."""
    return begin(place_on("xfs"))


def has_tree(driver: Driver) -> bool:
    return os.path.lexists(f"{driver.home}/dir/layer")


_HOLD = """
import sys
from reflayer.driver import Driver, trees
driver = Driver(sys.argv[1])
print(driver.get("layer"), flush=True)
sys.stdin.readline()
driver.put("layer")
"""


@contextmanager
def another_holds(driver: Driver) -> Iterator[subprocess.Popen[str]]:
    """Another process has got the tree, until it is given a line."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, driver.home],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{driver.home}/dir/layer\n"
        yield process


def test_it_is_the_same_for_all_who_ask(driver: Driver) -> None:
    expected = tree(driver.path("whole"))
    inode = os.stat(driver.get("layer")).st_ino
    assert driver.get("layer") == driver.path("layer") == f"{driver.home}/dir/layer"
    assert Driver(driver.home).path("layer") == driver.path("layer")
    assert os.stat(driver.path("layer")).st_ino == inode
    assert_same(expected, tree(driver.path("layer")))
    assert driver.lower("layer") == "base"
    assert driver.list() == ["base", "layer", "whole"]
    assert leftovers(driver) == []


def test_where_no_blocks_are_shared_it_goes_with_the_last_reference(ext4: Driver) -> None:
    ext4.get("layer")
    ext4.get("layer")
    ext4.put("layer")
    assert has_tree(ext4)
    ext4.put("layer")
    assert not has_tree(ext4)
    wait_until(lambda: leftovers(ext4) == [])
    ext4.put("layer")
    assert ext4.list() == ["base", "layer", "whole"]


def test_where_blocks_are_shared_it_goes_when_the_disk_is_short(
    xfs: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    xfs.get("layer")
    xfs.put("layer")
    assert has_tree(xfs)
    monkeypatch.setattr("reflayer.driver.room._LEAST", 101)
    xfs.get("layer")
    xfs.put("layer")
    assert not has_tree(xfs)


def test_another_process_that_holds_it_keeps_it(ext4: Driver) -> None:
    ext4.get("layer")
    with another_holds(ext4) as process:
        ext4.put("layer")
        ext4.drop_trees()
        Driver(ext4.home).drop_trees()
        assert has_tree(ext4)
        process.communicate("\n")
        assert process.returncode == 0
    assert not has_tree(ext4)


def test_what_a_killed_process_held_stays_until_somebody_drops_it(ext4: Driver) -> None:
    with another_holds(ext4) as process:
        process.kill()
    again = Driver(ext4.home)
    assert has_tree(again)
    again.drop_trees()
    assert not has_tree(again)
    wait_until(lambda: leftovers(again) == [])
    assert os.listdir(f"{again.home}/trees/{boot_id()}") == []


def test_one_of_an_earlier_boot_is_dropped_by_the_next_start(driver: Driver) -> None:
    expected = tree(driver.path("layer"))
    trees = Path(driver.home) / "trees"
    (trees / str(boot_id())).rename(trees / "of-an-earlier-boot")
    (Path(driver.home) / "dir/layer/folder/file").write_bytes(b"cut off")
    again = Driver(driver.home)
    assert not has_tree(again)
    assert list(trees.iterdir()) == []
    assert_same(expected, tree(again.path("layer")))


def test_one_that_nothing_is_known_of_is_made_again(driver: Driver) -> None:
    expected = tree(driver.path("layer"))
    os.unlink(f"{driver.home}/trees/{boot_id()}/layer")
    (Path(driver.home) / "dir/layer/folder/file").write_bytes(b"cut off")
    assert_same(expected, tree(driver.path("layer")))


def test_threads_and_processes_that_ask_at_once_get_one_tree(driver: Driver) -> None:
    code = (
        "import sys; from reflayer.driver import Driver; sys.stdin.readline();"
        "print(__import__('os').stat(Driver(sys.argv[1]).get('layer')).st_ino)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, driver.home],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    inodes: list[int] = []
    drivers = [driver, Driver(driver.home)]

    def ask(number: int) -> None:
        inodes.append(os.stat(drivers[number % 2].get("layer")).st_ino)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inodes += [int(process.communicate()[0]) for process in processes]
    assert len(inodes) == 11
    assert len(set(inodes)) == 1
    assert leftovers(driver) == []


def test_who_found_none_gets_the_one_that_was_made_meanwhile_and_is_held(driver: Driver) -> None:
    upper = os.open(upper_path(driver.home, "layer"), os.O_RDONLY)
    flock(upper, shared=True)  # as another has it who looks whether there is a tree
    got: list[str] = []
    asking = threading.Thread(target=lambda: got.append(driver.get("layer")), daemon=True)
    asking.start()
    time.sleep(0.1)
    assert asking.is_alive()
    assert not has_tree(driver)
    trees._make(driver.home, "layer", upper, driver._making)
    asking.join(60)
    assert got == [f"{driver.home}/dir/layer"]
    os.close(upper)


_TAKE_AND_GIVE = """
import os, sys, threading
from reflayer.driver import Driver, trees
drivers = [Driver(sys.argv[1]), Driver(sys.argv[1])]
failures = []
def work(driver):
    try:
        for _ in range(int(sys.argv[2])):
            path = driver.get("layer")
            assert sorted(os.listdir(path)) == sys.argv[3:], os.listdir(path)
            assert os.stat(path + "/folder/file").st_size == 7000
            driver.put("layer")
    except BaseException as error:
        failures.append(repr(error))
threads = [threading.Thread(target=work, args=[d]) for d in drivers * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""


def test_it_is_there_for_who_has_got_it_however_many_others_come_and_go(ext4: Driver) -> None:
    names = sorted(os.listdir(ext4.path("layer")))
    command = [sys.executable, "-c", _TAKE_AND_GIVE, ext4.home, "25", *names]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        _, trouble = process.communicate()
        assert process.returncode == 0, trouble.decode()
    assert not has_tree(ext4)
    wait_until(lambda: leftovers(Driver(ext4.home)) == [])


def test_it_stays_while_something_is_mounted_in_it(ext4: Driver) -> None:
    path = ext4.get("layer")
    subprocess.run(["mount", "--bind", path, f"{path}/folder"], check=True)
    try:
        ext4.put("layer")
        assert has_tree(ext4)
        with pytest.raises(OperationError, match="a file system is mounted there"):
            ext4.remove("layer")
    finally:
        subprocess.run(["umount", f"{path}/folder"], check=True)
    ext4.drop_trees()
    assert not has_tree(ext4)


def test_a_layer_that_is_made_anew_has_a_tree_of_its_own(ext4: Driver) -> None:
    """Though this process holds that of the layer before it, which another has removed."""
    ext4.get("layer")
    Driver(ext4.home).remove("layer")
    ext4.create_difference("layer", "base")
    ext4.sync("layer")
    assert not os.path.exists(f"{ext4.get('layer')}/added")
    ext4.put("layer")
    assert has_tree(ext4)
    ext4.put("layer")
    assert not has_tree(ext4)


def test_one_that_is_removed_while_its_tree_is_made_has_none(
    ext4: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reflayer.driver import clone

    before = clone.clone

    def remove_first(*arguments: object, **named: object) -> object:
        report = before(*arguments, **named)  # type: ignore[arg-type]
        Driver(ext4.home).remove("layer")
        return report

    monkeypatch.setattr(clone, "clone", remove_first)
    with pytest.raises(LayerError, match="layer layer was removed while its tree was being made"):
        ext4.get("layer")
    assert not has_tree(ext4)
    assert ext4.list() == ["base", "whole"]
    assert leftovers(ext4) == []


def test_one_whose_process_died_just_before_it_was_the_layer_is_no_tree(
    ext4: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(Exception):
        pass

    def die(*_: object) -> None:
        raise DiedError

    ext4.create_difference("new", "layer")
    with monkeypatch.context() as patch:
        patch.setattr("reflayer.driver.trees._become_whole", die)
        with pytest.raises(DiedError):
            ext4.get("new")
    assert ext4.lower("new") == "layer"
    (Path(ext4.get("new")) / "own").touch()
    assert ext4.lower("new") is None
    ext4.put("new")
    ext4.drop_trees()
    assert [change.path for change in ext4.changes("new", "layer")] == ["/own"]


def test_a_layer_that_becomes_whole_keeps_the_tree_that_others_hold(ext4: Driver) -> None:
    inode = os.stat(ext4.get("layer")).st_ino
    with another_holds(ext4) as process:
        ext4.remove("base")
        assert os.stat(ext4.path("layer")).st_ino == inode
        process.communicate("\n")
        assert process.returncode == 0
    ext4.put("layer")
    assert ext4.lower("layer") is None
    assert os.stat(ext4.path("layer")).st_ino == inode
