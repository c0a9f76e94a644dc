"""Spares: made behind, handed out once by a rename, gone with their layer or for want of room."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reflayer.driver import Driver, home
from reflayer.driver.clone_times import boot_id
from reflayer.driver.room import set_keep_free
from reflayer.driver.spares import add, stamp, stop_filling
from reflayer.workers.lock import locked
from tests.driver.layers import (
    archive_of,
    inside,
    kept,
    leftovers,
    make,
    run_as,
    stacked,
    tree,
    wait_until,
)
from tests.file_systems import require_root
from tests.trees import assert_same


@pytest.fixture(params=["xfs", "ext4", "btrfs", "tmpfs"])
def driver(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    """A driver with the layer ``base``, and two differences on that."""
    driver = Driver(place_on(request.param) / "home", method=kept(request.param))
    set_keep_free(driver.home, 0)  # what other tests have deleted may take a while to be free
    make(driver, "base")
    stacked(driver)
    return driver


def filled(driver: Driver) -> None:
    """Wait until no process makes spares any more, and nothing is left that it has removed."""
    with locked(f"{driver.home}/spares.lock", shared=True):  # it may wait for more
        pass
    driver.empty_trash()


def keep(driver: Driver, id: str, count: int) -> None:
    driver.keep_spares(id, count)
    wait_until(lambda: counts(driver).get(id, (0, 0)) == (count, count))
    filled(driver)


@contextmanager
def nobody_fills(driver: Driver) -> Iterator[None]:
    """Let no process make any meanwhile."""
    filled(driver)
    stop_filling(driver.home)
    with locked(f"{driver.home}/spares.lock"):
        yield


def counts(driver: Driver) -> dict[str, tuple[int, int]]:
    return {one.layer: (one.wanted, one.ready) for one in driver.spares()}


def folder(driver: Driver, id: str) -> Path:
    return Path(driver.home) / "spares" / (boot_id() or "") / id


def root(path: str | Path) -> tuple[int, int]:
    """What tells a folder, or a subvolume, from others."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def created(driver: Driver, id: str, parent: str) -> str:
    """By which method."""
    report = driver.create(id, parent)
    assert report is not None
    return report.method


def test_a_layer_that_was_a_spare_is_what_a_clone_is(driver: Driver) -> None:
    for layer in ("base", "top", "whole"):
        keep(driver, layer, 1)
        assert created(driver, f"spare-of-{layer}", layer) == "spare"
        driver.keep_spares(layer, 0)
        filled(driver)
        assert created(driver, f"clone-of-{layer}", layer) != "spare"
        assert_same(tree(driver.path(f"clone-of-{layer}")), tree(driver.path(f"spare-of-{layer}")))
    kinds = ("spare-of-", "clone-of-", "")
    layers = {f"{kind}{layer}" for kind in kinds for layer in ("base", "top", "whole")}
    assert set(driver.list()) == layers | {"middle"}
    assert leftovers(driver) == []


def test_only_what_is_changed_after_it_was_taken_is_different(driver: Driver) -> None:
    driver.create("clone", "top")
    keep(driver, "top", 1)
    assert created(driver, "box", "top") == "spare"
    assert list(driver.changes("box", "top")) == []
    assert driver.cloned("box", "top") is not None
    for id in ("box", "clone"):
        root = Path(driver.path(id))
        (root / "new").touch()
        (root / "folder/file").write_bytes(b"x")
    told = list(driver.changes("box", "top"))
    assert told == list(driver.changes("clone", "top"))
    assert "/new" in [one.path for one in told]
    packed = []
    for id in ("box", "clone"):
        os.utime(f"{driver.path(id)}/new", (1, 1))
        os.utime(f"{driver.path(id)}/folder/file", (1, 1))
        os.utime(driver.path(id), (1, 1))
        packed.append(driver.diff(id, "top").read())
    assert packed[0] == packed[1]


def test_what_was_taken_is_made_anew_behind(driver: Driver) -> None:
    keep(driver, "top", 2)
    for number in range(3):
        driver.create(f"box-{number}", "top")
    wait_until(lambda: counts(driver) == {"top": (2, 2)})
    assert counts(Driver(driver.home)) == {"top": (2, 2)}


def test_who_makes_some_himself_leaves_to_nobody_what_others_asked_for_meanwhile(
    driver: Driver,
) -> None:
    with nobody_fills(driver):
        driver.keep_spares("top", 1)
    driver.keep_spares("base", 1, wait=True)
    wait_until(lambda: counts(driver) == {"base": (1, 1), "top": (1, 1)})


def test_none_are_made_where_none_are_wanted(driver: Driver) -> None:
    assert driver.spares() == []
    driver.create("box", "top")
    assert not os.path.exists(f"{driver.home}/spares")
    keep(driver, "top", 3)
    driver.keep_spares("top", 1)
    assert counts(driver) == {"top": (1, 1)}
    driver.keep_spares("top", 0)
    filled(driver)
    assert driver.spares() == []
    assert leftovers(driver) == []


def test_a_spare_is_only_for_who_would_make_the_same(driver: Driver) -> None:
    keep(driver, "top", 1)
    other = Driver(driver.home, method="stream", ownership="ignore")
    with nobody_fills(driver):
        assert created(other, "box", "top") == "stream"
        assert created(driver, "second", "top") == "spare"


def test_another_user_has_none_of_them(place: Path) -> None:
    require_root()
    run_as(
        1234,
        """
import os, sys
from reflayer.driver import Driver
from reflayer.driver.spares import add, stamp
home = sys.argv[1] + "/home"
driver = Driver(home, ownership="ignore")
driver.create("base")
driver.create("made", "base")
before = stamp(home, "base")
os.rename(driver.path("made"), home + "/tmp/made")
assert add(home, "base", home + "/tmp/made", None, driver._making, before)
""",
        place,
    )
    driver = Driver(place / "home", ownership="ignore")
    assert os.listdir(folder(driver, "base")) != []
    assert created(driver, "box", "base") != "spare"


def test_each_is_taken_once_by_whichever_process(driver: Driver) -> None:
    keep(driver, "top", 12)
    inodes = {root(path) for path in folder(driver, "top").iterdir() if path.is_dir()}
    assert len(inodes) == 12
    code = """
import sys
from reflayer.driver import Driver
driver = Driver(sys.argv[1], method=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(8):
    report = driver.create(f"{sys.argv[3]}-{number}", "top")
    print(f"{sys.argv[3]}-{number}", report.method, flush=True)
"""
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, driver.home, driver._making.method, f"box{maker}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for maker in range(3)
    ]
    for maker in makers:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "ready\n"
    with nobody_fills(driver):
        for maker in makers:
            assert maker.stdin is not None
            maker.stdin.write("\n")
            maker.stdin.flush()
        told = [maker.communicate()[0].split("\n") for maker in makers]
    made = dict(line.split(" ") for lines in told for line in lines if line)
    assert len(made) == 24
    spares = [id for id, method in made.items() if method == "spare"]
    assert {root(driver.path(id)) for id in spares} == inodes
    expected = tree(driver.path("whole"))
    for id in made:
        assert_same(expected, tree(driver.path(id)))
    assert leftovers(driver) == []


def test_they_go_with_their_layer(driver: Driver) -> None:
    keep(driver, "top", 2)
    keep(driver, "whole", 1)
    driver.remove("top")
    assert counts(driver) == {"whole": (1, 1)}
    assert not folder(driver, "top").exists()
    assert leftovers(driver) == []
    make(driver, "top")
    filled(driver)
    assert created(driver, "box", "top") != "spare"


def test_none_is_handed_out_of_a_stack_that_has_changed(driver: Driver) -> None:
    keep(driver, "middle", 1)
    keep(driver, "top", 1)
    driver.keep_spares("middle", 1)
    archive = archive_of(driver, "whole", change_again)
    before = stamp(driver.home, "top")
    driver.apply("top", archive)
    assert stamp(driver.home, "top") != before
    assert created(driver, "box", "top") != "spare"
    assert (Path(driver.path("box")) / "again").exists()
    wait_until(lambda: counts(driver)["top"] == (1, 1))
    assert created(driver, "second", "top") == "spare"
    assert_same(tree(driver.path("box")), tree(driver.path("second")))


def change_again(root: Path) -> None:
    (root / "again").mkdir()
    (root / "again/file").write_text("again")


def test_those_of_an_earlier_boot_and_those_of_yesterday_go(
    driver: Driver,
) -> None:
    keep(driver, "top", 1)
    keep(driver, "whole", 1)
    earlier = folder(driver, "top").parent.parent / "3b4f7d1e-earlier"
    (earlier / "top/auto.0/tree").mkdir(parents=True)
    day = time.time() - 86_500
    os.utime(f"{driver.home}/warm/whole", (day, day), follow_symlinks=False)
    Driver(driver.home).empty_trash()
    assert counts(driver) == {"top": (1, 1)}
    assert not earlier.exists()
    assert not folder(driver, "whole").exists()


def test_they_give_way_where_the_disk_is_short(
    driver: Driver,
) -> None:
    keep(driver, "top", 2)
    set_keep_free(driver.home, 101)
    driver.create("box", "whole")
    assert counts(driver) == {"top": (2, 0)}
    assert leftovers(driver) == []


def test_an_empty_difference_that_is_asked_for_is_a_spare(driver: Driver) -> None:
    if not driver.keeps_differences:
        pytest.skip("layers are whole here")
    keep(driver, "top", 1)
    [inode] = [path.stat().st_ino for path in folder(driver, "top").iterdir() if path.is_dir()]
    driver.create_difference("box-init", "top")
    root = Path(driver.get("box-init"))
    assert root.stat().st_ino == inode
    assert_same(tree(driver.path("whole")), tree(root))
    (root / "dev").mkdir()
    driver.put("box-init")
    assert driver.take_over("box", "box-init")
    assert os.stat(driver.path("box")).st_ino == inode
    assert driver.lower("box-init") == "top"
    assert list(driver.changes("box", "box-init")) == []
    assert [one.path for one in driver.changes("box-init", "top")] == ["/dev"]


def test_the_tree_of_a_difference_is_a_spare(driver: Driver) -> None:
    if not driver.keeps_differences:
        pytest.skip("layers are whole here")
    keep(driver, "top", 1)
    [inode] = [path.stat().st_ino for path in folder(driver, "top").iterdir() if path.is_dir()]
    root = driver.get("top")
    assert os.stat(root).st_ino == inode
    assert_same(tree(driver.path("whole")), tree(root))
    assert driver.lower("top") == "middle"
    wait_until(lambda: counts(driver) == {"top": (1, 1)})
    driver.put("top")
    driver.drop_trees()
    assert inside(driver, "dir") == ["base", "whole"]
    assert created(driver, "box", "top") == "spare"


def test_an_empty_difference_whose_root_was_changed_is_none(driver: Driver) -> None:
    if not driver.keeps_differences:
        pytest.skip("layers are whole here")
    keep(driver, "top", 1)
    driver.create_difference("box-init", "top")
    os.chmod(driver.folder("box-init"), 0o711)
    root = Path(driver.get("box-init"))
    assert root.stat().st_mode & 0o7777 == 0o711
    assert counts(driver) == {"top": (1, 1)}


def test_a_layer_with_a_label_is_no_spare(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep(driver, "top", 1)
    monkeypatch.setattr(home, "_SELINUX", str(tmp_path))
    report = driver.create("box", "top", mount_label="a:b:c:s0")
    assert report is not None
    assert report.method != "spare"
    assert os.getxattr(driver.path("box"), "security.selinux") == b"a:b:c:s0\0"


_FILL = """
import sys
from reflayer.driver.fill import fill
from reflayer.workers.lock import open_locked
turn = open_locked(sys.argv[1] + "/spares.lock")
print("ready", flush=True)
fill(sys.argv[1], turn)
"""


def test_killed_at_any_moment_what_makes_them_leaves_nothing_half_made(driver: Driver) -> None:
    expected = tree(driver.path("whole"))
    with nobody_fills(driver):
        driver.keep_spares("top", 60)
    dice = random.Random(1)
    for _ in range(30):
        process = subprocess.Popen(
            [sys.executable, "-c", _FILL, driver.home], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(dice.random() * 0.05)
        process.kill()
        process.communicate()
        Driver(driver.home, method=driver._making.method).empty_trash()
        assert leftovers(driver) == []
    driver.keep_spares("top", 4)
    wait_until(lambda: counts(driver)["top"] == (4, 4))
    filled(driver)
    for spare in folder(driver, "top").iterdir():
        if spare.is_dir():
            assert_same(expected, tree(spare))
    driver.keep_spares("top", 0)
    filled(driver)
    assert leftovers(driver) == []


_WAIT = f"import reflayer.driver.fill as module\nmodule._LINGER = 600\n{_FILL}"


@pytest.mark.parametrize("end", ["killed", "told to end"])
def test_what_has_made_them_sees_what_is_taken_as_long_as_it_waits(
    driver: Driver, end: str
) -> None:
    with nobody_fills(driver):
        driver.keep_spares("top", 1)
    process = subprocess.Popen([sys.executable, "-c", _WAIT, driver.home], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for number in range(3):
        wait_until(lambda: counts(driver) == {"top": (1, 1)})
        assert created(driver, f"box-{number}", "top") == "spare"
    wait_until(lambda: counts(driver) == {"top": (1, 1)})
    assert process.poll() is None
    if end == "killed":
        process.kill()
        process.communicate()
        assert created(driver, "box", "top") == "spare"
        wait_until(lambda: counts(driver) == {"top": (1, 1)})
    else:
        assert driver.give_up_spares()
        process.communicate()
        assert counts(driver) == {"top": (1, 0)}


def test_what_is_given_to_it_is_one_unless_the_stack_has_changed(
    driver: Driver,
) -> None:
    before = stamp(driver.home, "top")
    for number in range(2):
        driver.create(f"box-{number}", "top")
    for number in range(2):
        path = f"{driver.home}/tmp/given-{number}"
        os.rename(driver.path(f"box-{number}"), path)
        note = f"{driver.home}/cloned/{boot_id()}/box-{number}"
        noted = note if os.path.exists(note) else None
        assert add(driver.home, "top", path, noted, driver._making, before)
    assert counts(driver) == {"top": (0, 2)}
    assert created(driver, "box", "top") == "spare"
    if driver.keeps_differences:
        assert driver.cloned("box", "top") is not None
    driver.apply("top", archive_of(driver, "whole", change_again))
    assert not add(driver.home, "top", "absent", None, driver._making, before)
