"""A progress callback that raises abandons a clone: at once, and nothing of it is left."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reflayer.copy.folder import Folder
from reflayer.copy.worker import Worker
from reflayer.driver import Driver
from reflayer.progress import Progress
from reflayer.workers import pool
from tests.driver.layers import leftovers, tree
from tests.trees import assert_same


class GoneError(Exception):
    """The client went away."""


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are started at once, and the callback at nearly every pause."""
    monkeypatch.setattr(pool, "_ALONE", -1.0)
    monkeypatch.setattr(pool, "_TELL", 0.0001)


def base(driver: Driver, folders: int = 30) -> None:
    with driver.build("base") as path:
        for number in range(folders):
            folder = Path(path) / f"{number}"
            folder.mkdir()
            for name in range(40):
                (folder / f"{name}").write_bytes(b"x" * name)
            os.link(folder / "1", folder / "link")


def after(calls: int, error: BaseException) -> Progress:
    """A callback that raises at one of its calls."""
    left = [calls]

    def tell(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise error

    return tell


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    ("calls", "error"),
    [(0, GoneError()), (2, ConnectionResetError("gone")), (6, KeyboardInterrupt())],
)
def test_nothing_is_left_and_the_next_clone_is_whole(
    place: Path, error: BaseException, calls: int
) -> None:
    driver = Driver(place, method="range", workers=4)
    base(driver)
    with pytest.raises(type(error)) as caught:
        driver.create("clone", "base", progress=after(calls, error))
    assert caught.value is error
    assert driver.list() == ["base"]
    assert leftovers(driver) == []
    assert list(Path(driver.home).glob("cloned/*/*")) == []
    driver.create("clone", "base", progress=after(1 << 30, error))
    assert_same(tree(driver.path("base")), tree(driver.path("clone")))


@pytest.mark.parametrize("method", ["snapshot", "reflink", "tar"])
def test_it_is_so_with_every_method(place_on: Callable[[str], Path], method: str) -> None:
    driver = Driver(place_on("btrfs"), method=method)
    base(driver)
    with pytest.raises(GoneError):
        driver.create("clone", "base", progress=after(0, GoneError()))
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("method", ["range", "stream"])
@pytest.mark.parametrize("error", [GoneError(), ConnectionResetError("gone")])
def test_a_clone_is_abandoned_in_the_middle_of_a_large_file(
    place_on: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: Exception,
) -> None:
    monkeypatch.setattr("reflayer.copy.method._STEP", 1 << 20)
    driver = Driver(place_on("tmpfs"), method=method, workers=1)
    with driver.build("base") as path:
        (Path(path) / "large").write_bytes(bytes(64 << 20))
    sizes: list[int] = []

    def tell(*_: object) -> None:
        sizes.extend(copy.stat().st_size for copy in Path(driver.home).glob("tmp/*/large"))
        if sizes:
            raise error

    with pytest.raises(type(error)) as caught:
        driver.create("clone", "base", progress=tell)
    assert caught.value is error
    assert len(sizes) == 1
    assert sizes[0] <= 2 << 20 or method == "range"
    assert leftovers(driver) == []


def test_the_callback_is_called_from_the_start_on(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("tmpfs"), method="stream", workers=1)
    base(driver)
    times: list[float] = []
    enter = Worker._enter

    def slow(worker: Worker, parent: Folder, name: bytes) -> Folder:
        time.sleep(0.02)
        return enter(worker, parent, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "_enter", slow)
        driver.create("clone", "base", progress=lambda *_: times.append(time.monotonic()))
    assert len(times) > 3


@pytest.mark.usefixtures("often")
def test_clones_of_many_threads_at_once_and_some_are_abandoned(
    place_on: Callable[[str], Path],
) -> None:
    driver = Driver(place_on("tmpfs"), workers=4)
    base(driver, folders=15)
    before = tree(driver.path("base"))
    start = threading.Barrier(6)

    def work(number: int) -> None:
        start.wait()
        for turn in range(3):
            id = f"{number}-{turn}"
            if (number + turn) % 3 == 0:
                with pytest.raises(GoneError):
                    driver.create(id, "base", progress=after(turn, GoneError()))
            else:
                driver.create(id, "base")

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert len(driver.list()) == 1 + sum((n + t) % 3 != 0 for n in range(6) for t in range(3))
    for id in driver.list():
        assert_same(before, tree(driver.path(id)))
    assert leftovers(driver) == []
