"""Spares that a driver keeps by itself, of the layers that are noted as used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflayer.driver import Driver, fill, lately
from reflayer.driver.room import set_keep_free
from reflayer.workers.lock import locked, open_locked
from tests.driver.layers import leftovers, make, stacked, tree, wait_until
from tests.file_systems import require
from tests.trees import assert_same


@pytest.fixture
def driver(place_on: Callable[[str], Path]) -> Iterator[Driver]:
    """One that keeps three by itself, with the layers ``base``, ``whole`` and ``top``."""
    driver = Driver(place_on("xfs") / "home")
    make(driver, "base")
    stacked(driver)
    driver.keep_spares_of_used(3)
    yield driver
    filled(driver)


def filled(driver: Driver) -> None:
    with locked(f"{driver.home}/spares.lock", shared=True):
        pass
    driver.empty_trash()


def use(driver: Driver, id: str, parent: str) -> str:
    """Make a container as a daemon does; by which method."""
    driver.note_use(parent)
    report = driver.create(id, parent)
    assert report is not None
    return report.method


def counts(driver: Driver) -> dict[str, tuple[int, int]]:
    return {one.layer: (one.wanted, one.ready) for one in driver.spares()}


def use_and_wait(driver: Driver, uses: int, parent: str = "top") -> None:
    before = len(driver.list())
    for number in range(uses):
        use(driver, f"box-{before + number}", parent)
    count = min(uses, 3)
    wait_until(lambda: counts(driver).get(parent) == (count, count))
    filled(driver)


def test_as_many_are_kept_as_were_used_lately_but_no_more_than_the_limit(driver: Driver) -> None:
    assert use(driver, "first", "top") == "reflink"
    wait_until(lambda: counts(driver) == {"top": (1, 1)})
    filled(driver)
    assert use(driver, "second", "top") == "spare"
    assert_same(tree(driver.path("first")), tree(driver.path("second")))
    wait_until(lambda: counts(driver) == {"top": (2, 2)})
    for number in range(4):
        use(driver, f"box-{number}", "top")
    wait_until(lambda: counts(driver) == {"top": (3, 3)})
    use(driver, "other", "base")
    wait_until(lambda: counts(driver) == {"base": (1, 1), "top": (3, 3)})
    filled(driver)
    assert leftovers(driver) == []


def test_what_is_made_without_a_note_is_not_counted(driver: Driver) -> None:
    driver.create("box", "top")
    driver.create_difference("built", "top")
    driver.get("built")
    assert driver.spares() == []


def a_minute_later(driver: Driver, monkeypatch: pytest.MonkeyPatch, *, day: bool = False) -> None:
    """What it does when it looks then, or a day later."""
    monkeypatch.setattr(lately, "_MINUTE", 0.0)
    if day:
        monkeypatch.setattr(lately, "_DAY", 0.0)
    assert driver._lately is not None
    driver._lately._look()
    monkeypatch.undo()


def test_a_minute_later_they_go_but_for_one_of_what_was_used_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_and_wait(driver, 1, "base")
    use_and_wait(driver, 3)
    a_minute_later(driver, monkeypatch)
    assert counts(driver) == {"top": (1, 1)}
    assert use(driver, "box", "top") == "spare"
    filled(driver)
    a_minute_later(driver, monkeypatch, day=True)
    assert counts(driver) == {}
    filled(driver)
    assert leftovers(driver) == []


def test_it_looks_by_itself_and_not_any_more_when_all_have_gone(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lately, "_MINUTE", 0.5)
    monkeypatch.setattr(lately, "_DAY", 1.0)
    for number in range(3):
        use(driver, f"box-{number}", "top")
    wait_until(lambda: counts(driver) == {})
    kept = driver._lately
    assert kept is not None
    wait_until(lambda: kept._timer is None)


def test_none_are_kept_where_no_blocks_are_shared(place_on: Callable[[str], Path]) -> None:
    for kind, method in (("ext4", "auto"), ("xfs", "range")):
        driver = Driver(place_on(kind) / "home", method=method)
        make(driver, "base")
        driver.keep_spares_of_used(3)
        assert use(driver, "first", "base") != "spare"
        assert driver.spares() == []
        driver.keep_spares("base", 1, wait=True)  # somebody asks for it
        assert use(driver, "second", "base") == "spare"
        wait_until(lambda driver=driver: counts(driver) == {"base": (1, 1)})  # type: ignore[misc]
        filled(driver)


def test_on_btrfs_snapshots_are_kept(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("btrfs") / "home")
    make(driver, "base")
    driver.keep_spares_of_used(3)
    use_and_wait(driver, 2, "base")
    assert use(driver, "box", "base") == "spare"
    filled(driver)


def test_with_a_limit_of_none_there_are_none(driver: Driver) -> None:
    use_and_wait(driver, 2)
    driver.keep_spares_of_used(0)
    filled(driver)
    assert driver.spares() == []
    assert use(driver, "box", "top") == "reflink"
    assert driver.spares() == []
    assert leftovers(driver) == []


def test_what_somebody_asked_for_is_kept_whatever_is_used(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.keep_spares("top", 2, wait=True)
    for number in range(3):
        use(driver, f"box-{number}", "top")
    wait_until(lambda: counts(driver) == {"top": (3, 3)})
    a_minute_later(driver, monkeypatch)
    assert counts(driver) == {"top": (2, 2)}
    driver.keep_spares_of_used(0)
    assert counts(driver) == {"top": (2, 2)}
    driver.keep_spares("top", 0)


def test_the_next_process_goes_on_with_them(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_and_wait(driver, 3)
    other = Driver(driver.home)
    other.keep_spares_of_used(2)
    assert counts(other) == {"top": (2, 2)}
    a_minute_later(other, monkeypatch)
    assert counts(other) == {"top": (1, 1)}
    assert use(other, "box", "top") == "spare"


def test_they_go_with_their_layer(driver: Driver) -> None:
    use_and_wait(driver, 2)
    driver.remove("top")
    assert driver.spares() == []
    driver.note_use("top")  # a request that comes too late
    assert driver.spares() == []
    assert leftovers(driver) == []


def test_where_the_disk_is_short_none_are_made_and_none_stay(driver: Driver) -> None:
    use_and_wait(driver, 2)
    set_keep_free(driver.home, 101)
    assert use(driver, "box", "base") == "reflink"
    filled(driver)
    assert {ready for _, ready in counts(driver).values()} == {0}
    assert leftovers(driver) == []


def test_what_cannot_be_noted_is_made_all_the_same(driver: Driver) -> None:
    require("chattr")
    folder = Path(driver.home, "warm")
    folder.mkdir()
    subprocess.run(["chattr", "+i", folder], check=True)
    try:
        assert use(driver, "box", "top") == "reflink"
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)
    assert driver.spares() == []


def test_a_spare_that_is_being_made_goes_on_when_more_are_wanted_but_not_for_fewer(
    driver: Driver,
) -> None:
    changes = [lambda: driver.note_use("top"), lambda: driver.keep_spares_of_used(0)]

    def clone(copy: Callable[[], None]) -> None:
        changes.pop(0)()
        copy()

    turn = open_locked(f"{driver.home}/spares.lock")
    assert turn is not None
    try:
        driver.note_use("top")
        fill._make(driver.home, "top", driver._making, turn, clone)
        assert counts(driver) == {"top": (2, 1)}
        with pytest.raises(fill._StoppedError):
            fill._make(driver.home, "top", driver._making, turn, clone)
    finally:
        os.close(turn)
    assert driver.spares() == []
    driver.empty_trash()
    assert leftovers(driver) == []


_FIRST = """
import os, sys, time
from reflayer.driver import Driver
assert os.getpid() == 1
driver = Driver(sys.argv[1])
driver.keep_spares_of_used(1)
driver.note_use("top")
driver.create("box", "top")
while not driver.spares()[0].ready:
    time.sleep(0.02)
"""


def test_the_first_process_of_a_container_has_them_made_too(driver: Driver) -> None:
    require("unshare")
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", _FIRST]
    subprocess.run([*command, driver.home], check=True, timeout=60)
    assert counts(driver) == {"top": (1, 1)}
