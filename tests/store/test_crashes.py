"""Killed at any moment, the next start finds a clean store."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.workers.lock import claim_new
from tests.archive.tars import entry, folder, tar
from tests.cli.processes import PROGRAM
from tests.file_systems import kinds
from tests.store.stores import BASE, MORE, assert_clean, image, names_in

_ROUNDS = 8
_STARTED = 0.05  # seconds: before, nothing can have begun
_PATIENCE = 120.0  # seconds
_COMMITTED = "docker.io/library/new:latest"
_NAMES = 2 * (40 + 1000)


def _many(name: str) -> bytes:
    """A layer of many small files, which takes a moment to unpack, to clone and to delete."""
    files = [entry(f"{name}-{at % 40}/{at}", b"x" * at) for at in range(1000)]
    return tar(*(folder(f"{name}-{at}") for at in range(40)), *files)


@pytest.fixture(params=[kind for kind in kinds() if kind != "tmpfs"])
def base(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Path:
    """Where clones are reflinks, snapshots, and copies."""
    return place_on(request.param)


@pytest.fixture
def made(base: Path) -> str:
    """An image that takes a moment."""
    return image(base / "image", _many("one"), _many("two"))


@pytest.fixture
def small(base: Path) -> str:
    """An image that takes none."""
    return image(base / "small", BASE)


def _run(root: Path, *arguments: str, kill_after: float | None = None) -> float:
    """Run the program, and kill it after so many seconds; return how long it took."""
    started = time.monotonic()
    process = subprocess.Popen(
        [*PROGRAM, "--root", str(root), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kill_after is not None:
        time.sleep(kill_after)
        process.kill()
    process.wait()
    return time.monotonic() - started


def _start_again(root: Path, small: str) -> Store:
    """The store after the next start, where only what was completed is still there.

    Or the one after that: a child of the killed process between fork(2) and exec(2) holds its locks
    a little longer, and what is locked is left alone.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        store = Store(root)
        store.create(small, name="next")
        store.remove_container("next")
        try:
            assert_clean(root)
            break
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    for container in store.containers():
        assert container.name == "whole"
        assert sum(1 for _ in Path(container.path).rglob("*")) == _NAMES
    return store


def _forget(store: Store, made: str) -> None:
    for container in store.containers():
        store.remove_container(container.name)
    _forget_image(store, made)


def _forget_image(store: Store, name: str) -> None:
    if any(name in one.names for one in store.images()):
        store.remove_image(name)


def test_a_killed_create_leaves_nothing(root: Path, made: str, small: str) -> None:
    dice = random.Random(2)
    longest = _run(root, "create", "--name", "whole", made)
    _forget(Store(root), made)
    for _ in range(_ROUNDS):
        moment = dice.uniform(_STARTED, longest)
        _run(root, "create", "--name", "whole", made, kill_after=moment)
        _forget(_start_again(root, small), made)


def test_a_container_of_an_image_that_is_there_clears_what_a_killed_create_left(
    root: Path, made: str, small: str
) -> None:
    dice = random.Random(7)
    store = Store(root)
    there = store.create(small, name="next").image_id
    store.remove_container("next")
    longest = _run(root, "create", "--name", "whole", made)
    _forget(store, made)
    for _ in range(_ROUNDS // 2):
        moment = dice.uniform(_STARTED, longest)
        _run(root, "create", "--name", "whole", made, kill_after=moment)
        _forget(_start_again(root, there), made)


_KILLED_AT = """
import os, sys
from importlib import import_module
from reflayer import Store
root, do, what, module, name, when = sys.argv[1:]
holder = import_module(module)
*path, name = name.split(".")
for one in path:
    holder = getattr(holder, one)
real = getattr(holder, name)
def killed(*arguments, **options):
    if when == "after":
        real(*arguments, **options)
    os.kill(os.getpid(), 9)
setattr(holder, name, killed)
getattr(Store(root), do)(what)
"""
_STEPS = [
    ("create", "reflayer.driver.driver", "Driver.create", "before"),
    ("create", "reflayer.driver.driver", "Driver.create", "after"),
    ("create", "reflayer.store.create", "_record", "after"),  # and before it is committed
    ("create", "reflayer.workers.lock", "Claim.release", "before"),  # of the folder's
    ("remove_container", "reflayer.driver.driver", "Driver.remove", "before"),
    ("remove_container", "reflayer.driver.driver", "Driver.remove", "after"),
    ("remove_container", "reflayer.store.containers", "_forget", "after"),
    ("remove_container", "reflayer.workers.lock", "Claim.release", "before"),
]


@pytest.mark.parametrize("is_last", [False, True], ids=["", "last"])
@pytest.mark.parametrize(("do", "module", "name", "when"), _STEPS)
def test_each_step_leaves_a_mark_where_folders_and_records_may_not_agree(
    base: Path, root: Path, do: str, module: str, name: str, when: str, is_last: bool
) -> None:
    store = Store(root)
    small = image(base / "small", BASE)
    there = store.create(image(base / "image", MORE), name="there").image_id
    store.create(small, name="other")
    if is_last and do == "remove_container":  # the image goes with its last container
        store.remove_image(there, force=True)
    what = there if do == "create" else "there"
    command = [sys.executable, "-c", _KILLED_AT, str(root), do, what, module, name, when]
    assert subprocess.run(command).returncode == -9
    assert names_in(root / "locks") != set()
    store = Store(root)
    if is_last:
        store.remove_container("other")
    else:
        store.create(store.container("other").image_id)
    names = {one.name for one in store.containers()} - {"there"}
    assert len(names) == (0 if is_last else 2)
    assert_clean(root)


def test_an_older_version_left_no_mark_so_its_store_is_collected(base: Path, root: Path) -> None:
    store = Store(root)
    there = store.create(image(base / "image", BASE), name="there").image_id
    store.create(there, name="lost")
    subprocess.run(["rm", "-r", store.container("lost").path], check=True)
    (root / "layers/dir" / ("0" * 64)).mkdir()
    with closing(sqlite3.connect(root / "reflayer.db")) as db:
        db.execute("PRAGMA user_version = 2")
    store.create(there, name="new")
    assert {one.name for one in store.containers()} == {"there", "new"}
    assert_clean(root)


def test_a_mark_of_who_lives_is_left_alone(base: Path, root: Path) -> None:
    store = Store(root)
    there = store.create(image(base / "image", BASE)).image_id
    mine = claim_new(str(root / "locks"), "mark")
    store.prune()
    store.create(there)
    assert len(names_in(root / "locks")) == 1
    mine.abandon()
    store.create(there)
    assert_clean(root)


def test_a_killed_commit_leaves_nothing(root: Path, made: str, small: str) -> None:
    dice = random.Random(5)
    store = Store(root)
    container = Path(store.create(made, name="whole").path)
    for at in range(500):
        (container / f"one-{at % 40}/{at}").write_bytes(b"changed" * at)
    longest = _run(root, "commit", "whole", "new")
    for _ in range(_ROUNDS // 2):
        _forget_image(store, _COMMITTED)
        _run(root, "commit", "whole", "new", kill_after=dice.uniform(_STARTED, longest))
        store = _start_again(root, small)
        if any(_COMMITTED in one.names for one in store.images()):
            again = Path(store.create("new", name="again").path)
            assert (again / "one-19/499").read_bytes() == b"changed" * 499
            store.remove_container("again")


def test_a_killed_save_leaves_what_was_there(base: Path, root: Path, made: str) -> None:
    dice = random.Random(6)
    store = Store(root)
    store.create(made, name="whole")
    _run(root, "save", made, f"oci:{base}/out:before")
    archive = base / "out.tar"
    longest = _run(root, "save", made, f"docker-archive:{archive}")
    whole = archive.read_bytes()
    for turn in range(_ROUNDS // 2):
        place = f"docker-archive:{archive}" if turn % 2 else f"oci:{base}/out:tag-{turn}"
        _run(root, "save", made, place, kill_after=dice.uniform(_STARTED, longest))
        assert archive.read_bytes() == whole
        other = Store(base / f"other-{turn}")
        other.create(f"oci:{base}/out:before")
    _run(root, "save", made, f"oci:{base}/out:last")
    assert names_in(base / "out") == {"blobs", "index.json", "oci-layout"}
    assert_clean(root)


def test_a_killed_rm_leaves_nothing(root: Path, made: str, small: str) -> None:
    dice = random.Random(3)
    store = Store(root)
    store.create(made, name="whole")
    longest = _run(root, "rm", "--wait", "whole")
    for turn in range(_ROUNDS):
        if not store.containers():
            store.create(made, name="whole")
        arguments = ("rm", "whole", *(["--wait"] if turn % 2 else []))
        _run(root, *arguments, kill_after=dice.uniform(_STARTED, longest))
        store = _start_again(root, small)


def test_a_killed_rmi_leaves_nothing(root: Path, made: str, small: str) -> None:
    dice = random.Random(4)
    store = Store(root)
    store.remove_container(store.create(made).name)
    longest = _run(root, "rmi", "--wait", made)
    for _ in range(_ROUNDS):
        if not any(made in one.names for one in store.images()):
            store.remove_container(store.create(made).name)
        _run(root, "rmi", made, kill_after=dice.uniform(_STARTED, longest))
        store = _start_again(root, small)
