"""Trees measured by several threads: the same as by one, whoever ends first."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer.errors import OperationError
from reflayer.extents import TreeUsage, measure_trees, share_out
from reflayer.extents import measure as sums
from reflayer.record import replace
from reflayer.workers import pool
from tests.random_trees import TREES, Tree, make_tree


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are started before the first folder."""
    monkeypatch.setattr(pool, "_ALONE", -1)


@pytest.fixture(params=["with the part in C", "without it"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without it":
        monkeypatch.setattr(sums, "_measure_names", None)


def several(place: Path, number: int = 4) -> list[Path]:
    """Trees of some folders and files."""
    made = [place / f"tree{n}" for n in range(number)]
    for tree in made:
        for name in range(5):
            (tree / str(name)).mkdir(parents=True)
            (tree / str(name) / "file").write_bytes(os.urandom(5_000))
    return made


def in_order(usages: list[TreeUsage]) -> list[tuple[TreeUsage, list[tuple[int, ...]]]]:
    """They, and their shared places in another order than that in which they were met."""
    told = []
    for usage in usages:
        places = sorted(zip(*[iter(usage.shared)] * 2, strict=True))
        told.append((replace(usage, shared=usage.shared[:0]), places))
    return told


def measured_in_python(paths: list[Path]) -> list[TreeUsage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "_measure_names", None)
        return measure_trees(paths, workers=1)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
@given(trees=st.lists(TREES, min_size=1, max_size=3))
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.usefixtures("at_once")
def test_any_trees_are_told_as_one_thread_in_python_tells_them(
    kind: str, trees: list[Tree], place_on: Callable[[str], Path]
) -> None:
    place = place_on(kind)
    parts: list[Path] = []
    for number, tree in enumerate(trees):
        one, clone = place / f"{number}", place / f"{number}-clone"
        one.mkdir()
        make_tree(os.fsencode(one), tree, [])
        (one / "more").mkdir()
        (one / "more/data").write_bytes(os.urandom(9_000))
        with open(one / "more/pieces", "wb") as file:  # more extents than the part in C takes
            for piece in range(20):
                file.seek(piece * 16384)
                file.write(b"x" * 4096)
        subprocess.run(["cp", "-a", one, clone], check=True)
        os.link(one / "more/data", clone / "outside")
        os.link(one / "more/data", one / "again")
        parts += [one, clone]
    try:
        alone = measured_in_python(parts)
        together = measure_trees(parts, workers=3)
        assert in_order(together) == in_order(alone)
        assert share_out(together) == share_out(alone)
        assert in_order(measure_trees(parts, workers=1)) == in_order(alone)
    finally:
        subprocess.run(["rm", "-rf", *parts], check=True)


@pytest.mark.usefixtures("at_once", "either_way")
def test_threads_share_a_tree(
    place_on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    add = sums.Tally.add_folders

    def note(*arguments: object) -> tuple[list[bytes], list[bytes]]:
        seen.add(threading.get_ident())
        time.sleep(0.01)
        return add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sums.Tally, "add_folders", note)
    told: list[int] = []
    (usage,) = measure_trees(
        several(place_on("xfs"), 1), workers=2, progress=lambda _, done, __: told.append(done)
    )
    assert (usage.inodes, usage.size) == (11, 25_000)
    assert told == sorted(told)
    assert told[-1] == 10
    assert len(seen) == 2


@pytest.mark.usefixtures("at_once")
def test_one_worker_is_this_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", None)
    assert len(measure_trees(several(tmp_path), workers=1)) == 4
    assert measure_trees([]) == []


@pytest.mark.usefixtures("at_once", "either_way")
def test_an_error_is_that_of_its_tree(tmp_path: Path) -> None:
    too_long = "/name" * 1000
    paths: list[str | Path] = [*several(tmp_path)]
    paths.insert(1, too_long)
    with pytest.raises(OperationError, match="open: File name too long") as caught:
        measure_trees(paths, workers=2)
    assert caught.value.path == too_long


@pytest.mark.usefixtures("at_once")
def test_progress_that_raises_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_TELL", 0)
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_trees(several(tmp_path), workers=4, progress=stop)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


@pytest.mark.usefixtures("either_way")
def test_an_interrupt_in_a_large_folder_is_heard(place_on: Callable[[str], Path]) -> None:
    place = place_on("tmpfs")
    for number in range(20_000):
        (place / f"{number}").touch()
    before = signal.signal(signal.SIGPROF, signal.default_int_handler)
    started = time.process_time()
    measure_trees([place], workers=1)
    whole = time.process_time() - started

    def measure_until_interrupted() -> None:
        signal.setitimer(signal.ITIMER_PROF, whole / 4)
        measure_trees([place] * 100, workers=1)

    gc.disable()  # what is raised in the callback that Hypothesis has there is lost
    try:
        started = time.process_time()
        with pytest.raises(KeyboardInterrupt):
            measure_until_interrupted()
        assert time.process_time() - started < whole / 4 + 0.1
    finally:
        gc.enable()
        signal.signal(signal.SIGPROF, before)


def test_a_name_that_is_gone_by_now_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    tally = sums.Tally(os.fsencode(tmp_path))
    root = tally.open()
    try:
        tally._add_names(root, b"", [b"gone", b"file"])
    finally:
        os.close(root)
    usage = tally.usage()
    assert (usage.inodes, usage.size, usage.unread) == (1, 100, 0)
