"""Threads and processes at work in one home do not get in each other's way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from reflayer.driver import Driver
from reflayer.errors import LayerError
from tests.driver.layers import leftovers, make, tree, wait_until
from tests.trees import assert_same

_WORK = """
import random, sys, threading
from reflayer.driver import Driver
from reflayer.errors import LayerError

home, seed, threads, rounds = sys.argv[1], *map(int, sys.argv[2:])
driver = Driver(home)
failures, won = [], []

def work(number):
    dice = random.Random(seed * 100 + number)
    try:
        for turn in range(rounds):
            try:
                driver.create(f"race-{turn}", "base")
                won.append(turn)
            except LayerError as error:
                assert "exists already" in str(error), error
            id = f"shared-{dice.randrange(4)}"
            if dice.random() < 0.5:
                driver.remove(id, wait=dice.random() < 0.8)
            else:
                try:
                    driver.create(id, dice.choice(["base", "base", "shared-0"]))
                except LayerError:
                    pass  # it is there, or its parent is not, or went meanwhile
            if dice.random() < 0.1:
                Driver(home)
    except BaseException as error:
        failures.append(repr(error))

workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
assert not failures, failures
print(*won)
"""


def test_of_all_who_make_the_same_layer_exactly_one_wins(place: Path) -> None:
    processes, threads, rounds = 4, 8, 6
    driver = Driver(place / "home")
    base = tree(make(driver, "base"))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _WORK, driver.home, str(n), str(threads), str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(processes)
    ]
    won: list[str] = []
    for process in started:
        out, trouble = process.communicate()
        assert process.returncode == 0, trouble
        won += out.split()
    assert sorted(won, key=int) == [str(n) for n in range(rounds)]
    for id in driver.list():
        assert_same(base, tree(driver.path(id)))
    wait_until(lambda: leftovers(driver) == [])


def test_an_empty_layer_is_not_replaced_either(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("ext4") / "home")
    outcomes: list[str] = []
    inodes: set[int] = set()

    def create() -> None:
        try:
            driver.create("same")
            outcomes.append("won")
        except LayerError as error:
            outcomes.append(str(error))
        inodes.add(os.stat(driver.path("same")).st_ino)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["layer same exists already"] * 7 + ["won"]
    assert len(inodes) == 1
    assert leftovers(driver) == []
