"""Spares that the snapshotter keeps: Prepare takes one by a rename."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflayer.driver.home import opened
from reflayer.driver.spares import all_spares
from reflayer.linux.libc import birth_time
from reflayer.workers.lock import locked
from tests.containerd.served import Served, until
from tests.driver.layers import at_rest
from tests.trees import assert_same, facts


@pytest.fixture
def service(place_on: Callable[[str], Path], socket: Path) -> Iterator[Served]:
    """The service, with its home on XFS, not started; nobody works there after the test."""
    with_home = Served(place_on("xfs") / "home", socket)
    yield with_home
    with_home.close()
    at_rest(with_home.home)


def image(service: Served) -> None:
    """An image of two layers."""
    folder = service.prepare("base-key")
    (folder / "etc").mkdir()
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
    os.link(folder / "etc/hosts", folder / "hosts")
    service.commit("base", "base-key")
    upper, _ = service.unpack("extract-1 top", "base")
    (upper / "new").write_text("new")
    service.commit("top", "extract-1 top")


def counts(service: Served) -> list[tuple[int, int]]:
    return [(one.wanted, one.ready) for one in all_spares(str(service.home))]


def ready(service: Served, wanted: int) -> set[int]:
    """The inodes of the spares, when all that are wanted are there."""
    until(lambda: counts(service) == [(wanted, wanted)])
    at_rest(service.home)
    [one] = all_spares(str(service.home))
    return {os.stat(path).st_ino for path in one.paths}


def born(path: Path) -> tuple[int, int | None]:
    """What tells a folder from one that has its inode number after it."""
    with opened(str(path)) as fd:
        return os.fstat(fd).st_ino, birth_time(fd)


def test_a_prepared_snapshot_is_a_spare_and_the_next_is_made_behind(service: Served) -> None:
    service.start()
    image(service)
    first = service.prepare("first", "top")
    there = ready(service, 1)
    second = service.prepare("second", "top")
    assert {second.stat().st_ino} == there
    assert_same(facts(first), facts(second))
    assert there.isdisjoint(ready(service, 2))
    assert service.names() == ["base", "first", "second", "top"]


def test_its_usage_and_its_commit_are_what_was_changed_in_it(service: Served) -> None:
    service.start()
    image(service)
    service.prepare("first", "top")
    ready(service, 1)
    folder = service.prepare("second", "top")
    assert service.usage("second") == service.usage("first")
    before = service.usage("second")
    (folder / "written").write_bytes(bytes(1 << 20))
    assert service.usage("second")[0] - before[0] == 1 << 20
    assert service.usage("second")[1] - before[1] == 2  # the file, and its folder
    service.commit("changed", "second")
    assert service.usage("changed")[0] >= 1 << 20
    third = service.prepare("third", "changed")
    assert (third / "written").stat().st_size == 1 << 20


def test_layers_and_views_are_no_containers(service: Served) -> None:
    service.start()
    image(service)
    service.view("view", "top")
    service.unpack("extract-2 next", "top")
    service.prepare("empty")
    assert counts(service) == []


def test_without_spares_none_are_made_and_those_that_are_there_go(service: Served) -> None:
    service.start()
    image(service)
    service.prepare("first", "top")
    ready(service, 1)
    service.stop()
    service.start("--spares", "0", "--keep-free", "3")
    assert counts(service) == []
    service.prepare("second", "top")
    at_rest(service.home)
    assert counts(service) == []
    assert os.readlink(service.home / "keep-free") == "3"


def test_where_no_blocks_are_shared_there_are_none(service: Served) -> None:
    service.start("--method", "range")
    image(service)
    for number in range(3):
        service.prepare(f"box{number}", "top")
    at_rest(service.home)
    assert counts(service) == []


def test_where_the_disk_is_short_there_are_none_and_nothing_is_refused(service: Served) -> None:
    service.start()
    image(service)
    service.prepare("first", "top")
    ready(service, 1)
    service.stop()
    service.start("--keep-free", "99")
    service.prepare("second", "base")
    at_rest(service.home)
    assert [one.ready for one in all_spares(str(service.home))] == [0, 0]
    service.prepare("third", "top")
    assert service.names() == ["base", "first", "second", "third", "top"]


def test_they_go_with_their_snapshot(service: Served) -> None:
    service.start()
    image(service)
    service.prepare("first", "top")
    ready(service, 1)
    service.remove("first")
    service.remove("top")
    assert counts(service) == []
    service.cleanup()
    assert service.leftovers() == []


def test_killed_and_started_anew_it_hands_none_out_twice(service: Served) -> None:
    service.start()
    image(service)
    for number in range(3):
        service.prepare(f"before{number}", "top")
    there = ready(service, 3)
    service.stop(signal.SIGKILL)
    service.start()
    with locked(f"{service.home}/spares.lock"):
        made = [service.prepare(f"after{number}", "top").stat().st_ino for number in range(4)]
    assert set(made[:3]) == there
    assert made[3] not in there
    service.prepare("last", "top")
    ready(service, 4)
    until(lambda: not service.leftovers())


@pytest.mark.usefixtures("undisturbed")
def test_what_is_removed_while_one_is_missing_is_a_spare_again(service: Served) -> None:
    service.start("--recycle")
    image(service)
    service.prepare("first", "top")
    ready(service, 1)
    with locked(f"{service.home}/spares.lock"):
        box = service.prepare("box", "top")
    was = born(box)
    (box / "written").write_text("x")
    (box / "etc/hosts").write_text("changed")
    service.remove("box")
    ready(service, 2)
    made = [service.prepare(f"again{number}", "top") for number in range(2)]
    assert was in map(born, made)
    assert_same(facts(made[0]), facts(made[1]))
    at_rest(service.home)
    assert service.leftovers() == []


@pytest.mark.parametrize(("options", "count"), [([], 0), (["--recycle"], 1)])
def test_what_is_removed_is_to_be_a_spare_only_where_that_is_asked_for(
    service: Served, options: list[str], count: int
) -> None:
    service.start(*options)
    image(service)
    service.prepare("first", "top")
    ready(service, 1)
    with locked(f"{service.home}/spares.lock"):
        service.prepare("box", "top")
        service.remove("box")
        assert len([*(service.home / "spares").rglob("*.used")]) == count


def test_of_many_that_ask_at_once_each_gets_another(service: Served) -> None:
    service.start("--spares", "8")
    image(service)
    for number in range(8):
        service.prepare(f"before{number}", "top")
    there = ready(service, 8)
    made: list[int] = []
    askers = [
        threading.Thread(
            target=lambda name: made.append(service.prepare(name, "top").stat().st_ino),
            args=(f"box{number}",),
        )
        for number in range(16)
    ]
    with locked(f"{service.home}/spares.lock"):
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert len(set(made)) == 16
    assert there <= set(made)
