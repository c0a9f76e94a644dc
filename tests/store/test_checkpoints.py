"""Checkpoints of containers: kept, gone back to, gone on from, and gone when nothing needs them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflayer import Store
from reflayer.errors import OperationError, StoreError
from reflayer.store.containers import Checkpoint
from tests.file_systems import kinds, miss, require_root
from tests.store.stores import BASE, MORE, assert_clean, image, layers_in
from tests.trees import assert_same, facts

_KILLS = 5  # of each action on each file system; 100 have passed


@pytest.fixture
def base(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Path:
    """A new folder on XFS, or where a test says."""
    return place_on(getattr(request, "param", kinds()[0]))


@pytest.fixture
def store(base: Path, root: Path) -> Store:
    store = Store(root, ownership=None if os.geteuid() == 0 else "ignore")
    store.create(image(base / "image", BASE, MORE), name="box")
    # What was made in the clock's last tick is taken for changed: of so small a clone, all.
    time.sleep(0.02)
    store.rollback("box")
    return store


def tree(store: Store, name: str = "box") -> object:
    return facts(Path(store.container(name).path), atime=False)


def write(store: Store, name: str, text: str = "x", container: str = "box") -> None:
    Path(store.container(container).path, name).write_text(text)


def names(found: list[Checkpoint]) -> list[tuple[str, str | None, bool]]:
    return [(one.name, one.parent, one.is_current) for one in found]


def test_it_goes_back_to_any_checkpoint_and_on_from_there(store: Store, root: Path) -> None:
    write(store, "etc/new", "one")
    one, at_one = store.checkpoint("box", "one"), tree(store)
    write(store, "etc/new", "two")
    two, at_two = store.checkpoint("box"), tree(store)
    assert (two.name, two.parent, two.is_current, one.size) == ("2", "one", True, 3)
    shutil.rmtree(f"{store.container('box').path}/etc")
    assert store.rollback("box") == two
    assert tree(store) == at_two
    back = store.rollback("box", "one")
    assert back is not None
    assert back.is_current
    assert tree(store) == at_one
    store.checkpoint("box", "three")
    assert names(store.checkpoints("box")) == [
        ("one", None, False), ("2", "one", False), ("three", "one", True)
    ]  # fmt: skip
    assert_clean(root)
    store.remove_container("box")
    assert_clean(root)


def test_a_container_has_the_same_words(store: Store) -> None:
    box = store.container("box")
    write(store, "etc/new", "one")
    one, at_one = box.checkpoint("one"), tree(store)
    write(store, "etc/new", "two")
    with box.fork("one", new="copy") as copy:
        assert (copy.name, tree(store, "copy")) == ("copy", at_one)
    assert box.rollback() == one
    assert tree(store) == at_one
    assert box.checkpoints() == store.checkpoints("box") == [one]
    with pytest.raises(StoreError):
        box.rollback("two")


def test_a_container_without_checkpoints_goes_back_to_its_image(store: Store) -> None:
    before = tree(store)
    write(store, "etc/new")
    assert store.rollback("box") is None
    assert tree(store) == before


def test_a_fork_lives_on_without_what_it_is_a_fork_of(store: Store, root: Path) -> None:
    write(store, "etc/new", "one")
    store.checkpoint("box", "one")
    write(store, "etc/new", "two")
    first, second = store.fork("box", "one"), store.fork("box", new="second")
    assert Path(first.path, "etc/new").read_text() == "one"
    assert Path(second.path, "etc/new").read_text() == "two"
    assert names(store.checkpoints("box")) == [("one", None, False), ("2", "one", True)]
    assert store.checkpoints("second") == []
    third = store.fork("box")
    assert len(store.checkpoints("box")) == 2  # nothing has changed
    store.remove_container("box")
    write(store, "etc/more", container="second")
    store.checkpoint("second", "more")
    write(store, "etc/more", "y", container="second")
    store.rollback("second")
    store.rollback(third.name)
    assert Path(second.path, "etc/more").read_text() == "x"
    assert_clean(root)
    for one in (first, second, third):
        store.remove_container(one.name)
    assert_clean(root)
    assert layers_in(root) == {row for row in layers_in(root) if len(row) == 64}


def test_a_removed_checkpoint_leaves_what_goes_on_from_it(store: Store, root: Path) -> None:
    for name in ("one", "two", "three"):
        write(store, f"etc/{name}", name * 1000)
        store.checkpoint("box", name)
    before, there = tree(store), len(layers_in(root))
    store.remove_checkpoint("box", "two")
    assert names(store.checkpoints("box")) == [("one", None, False), ("three", "one", True)]
    assert_clean(root)
    store.rollback("box", "one")
    store.rollback("box", "three")
    assert tree(store) == before
    store.rollback("box", "one")
    store.remove_checkpoint("box", "three")
    assert len(layers_in(root)) == there - 2
    store.remove_checkpoint("box", "one")
    write(store, "etc/more")
    assert store.rollback("box") is None  # what it was last
    assert Path(store.container("box").path, "etc/one").exists()
    assert_clean(root)


def test_what_changed_is_told_from_any_checkpoint(store: Store) -> None:
    write(store, "etc/one")
    store.checkpoint("box", "one")
    write(store, "etc/two")
    store.checkpoint("box", "two")
    write(store, "etc/three")

    def told(name: str, since: str | None = None) -> list[str]:
        return [f"{one.kind} {one.path}" for one in store.changes(name, since)]

    assert told("box") == ["C /etc", "A /etc/one", "A /etc/three", "A /etc/two"]
    assert told("box", "box@two") == ["C /etc", "A /etc/three"]
    assert told("box@two", "box@one") == ["C /etc", "A /etc/two"]
    assert told("box@one") == ["C /etc", "A /etc/one"]
    assert told("box@one", "box@two") == ["C /etc", "D /etc/two"]
    assert told("box@two") == ["C /etc", "A /etc/one", "A /etc/two"]


def test_a_checkpoint_becomes_an_image(store: Store) -> None:
    write(store, "etc/one")
    store.checkpoint("box", "one")
    write(store, "etc/two")
    store.commit("box@one", "localhost:5000/one")
    made = store.create("localhost:5000/one")
    assert Path(made.path, "etc/one").exists()
    assert not Path(made.path, "etc/two").exists()


def test_names_are_checked(store: Store) -> None:
    store.checkpoint("box", "one")
    for what in (
        lambda: store.checkpoint("box", "one"),
        lambda: store.checkpoint("box", "a/b"),
        lambda: store.checkpoint("box", ""),
        lambda: store.rollback("box", "two"),
        lambda: store.fork("box", "two"),
        lambda: store.fork("box", new="box"),
        lambda: store.remove_checkpoint("box", "two"),
        lambda: list(store.changes("box@two")),
        lambda: store.checkpoints("other"),
    ):
        with pytest.raises(StoreError):
            what()


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Path]:
    require_root()
    place = tmp_path / "cgroup2"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "cgroup2", "none", place], capture_output=True)
    if mount.returncode:
        miss("cgroup2 cannot be mounted here")
    folder = place / f"reflayer-test-{os.getpid()}"
    try:
        folder.mkdir()
        yield folder
        folder.rmdir()
    finally:
        subprocess.run(["umount", place], check=True)


_COUNTS = """
import os, sys
number = 0
while True:
    number += 1
    for name in ("a", "b"):
        with open("new", "w") as file:
            file.write(str(number))
        os.rename("new", name)
    if number == 1:
        print("begun", flush=True)
"""


def test_a_cgroup_that_is_frozen_meanwhile_goes_on_afterwards(store: Store, cgroup: Path) -> None:
    box = store.container("box")
    code = [sys.executable, "-c", _COUNTS]
    with subprocess.Popen(code, cwd=f"{box.path}/etc", stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            (cgroup / "cgroup.procs").write_text(str(child.pid))
            for _ in range(5):
                made = box.checkpoint(freeze=cgroup)
                with box.fork(made.name) as copy:
                    a, b = (int(Path(copy.path, "etc", name).read_text()) for name in "ab")
                assert a - b in (0, 1)
                assert (cgroup / "cgroup.freeze").read_text() == "0\n"
            before = Path(box.path, "etc/a").read_text()
            while Path(box.path, "etc/a").read_text() == before:
                time.sleep(0.01)
            (cgroup / "cgroup.freeze").write_text("1")
            box.checkpoint(freeze=cgroup)
            assert (cgroup / "cgroup.freeze").read_text() == "1\n"
        finally:
            child.kill()
            (cgroup / "cgroup.freeze").write_text("0")
    with pytest.raises(OperationError, match="this process is in it"):
        box.checkpoint(freeze=cgroup.parent)
    with pytest.raises(OperationError, match="freeze"):
        box.checkpoint(freeze="/etc")


_CHILD = """
import sys
from reflayer import Store
store = Store(sys.argv[1], ownership=None)
print("begun", flush=True)
{action}
"""
_ACTIONS = {
    "checkpoint": 'store.checkpoint("box", sys.argv[2])',
    "rollback": 'store.rollback("box")',
    "rollback to another": 'store.rollback("box", "first")',
    "fork": 'store.fork("box", "first")',
    "rm": 'store.remove_checkpoint("box", "gone")',
}


@pytest.mark.parametrize("base", [kind for kind in kinds() if kind != "tmpfs"], indirect=True)
@pytest.mark.parametrize("action", _ACTIONS)
def test_a_kill_leaves_the_old_state_or_the_new(store: Store, root: Path, action: str) -> None:
    require_root()
    random_ = random.Random(action)
    folder = Path(store.container("box").path, "many")
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}").write_text(f"{number}" * 1000)
    store.checkpoint("box", "first")
    at_first = tree(store)
    (folder / "more").touch()
    store.checkpoint("box", "second")
    at_second = tree(store)
    code = _CHILD.format(action=_ACTIONS[action])
    for attempt in range(_KILLS):
        shutil.rmtree(folder)
        (folder.parent / "other").write_text("x")
        before = tree(store)
        if action == "rm":
            store.checkpoint("box", "gone")
            store.rollback("box", "second")
            before = at_second
        with subprocess.Popen(
            [sys.executable, "-c", code, str(root), f"made{attempt}"], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(random_.random() * 0.12)
            child.send_signal(signal.SIGKILL)
        now = tree(store)  # whatever was cut off is finished
        allowed = {
            "checkpoint": [before], "rollback": [before, at_second],
            "rollback to another": [before, at_first], "fork": [before], "rm": [before],
        }[action]  # fmt: skip
        assert now in allowed
        made = {one.name for one in store.checkpoints("box")}
        if f"made{attempt}" in made:
            (folder.parent / "more").touch()
            store.rollback("box", f"made{attempt}")
            assert_same(before, tree(store))  # type: ignore[arg-type]
            store.remove_checkpoint("box", f"made{attempt}")
        store.rollback("box", "second")
        assert tree(store) == at_second
        for one in store.containers():
            if one.name != "box":
                assert tree(store, one.name) == at_first
                store.remove_container(one.name)
        if "gone" in made:
            store.remove_checkpoint("box", "gone")
    Store(root).prune()
    assert_clean(root)


def test_df_counts_checkpoints_and_a_fork_s_are_its_own(store: Store) -> None:
    [before] = store.usage("box").containers
    write(store, "etc/large", "x" * 500_000)
    store.checkpoint("box", "one")
    Path(store.container("box").path, "etc/large").unlink()
    end = time.monotonic() + 60  # XFS lets go of what was unlinked behind
    while True:
        [used] = store.usage("box").containers
        if used.gives_back >= before.gives_back + 500_000 or time.monotonic() > end:
            break
        time.sleep(0.05)
    assert used.space.allocated >= before.space.allocated + 500_000
    assert used.gives_back >= before.gives_back + 500_000
    fork = store.fork("box", "one")
    [used] = store.usage("box").containers  # the fork needs it, too
    assert used.gives_back < before.gives_back + 400_000
    store.remove_checkpoint("box", "one")
    store.remove_container(fork.name)
    assert store.usage().total.size < 1_100_000


def test_where_a_stack_gets_too_high_the_records_agree(
    store: Store, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflayer.driver.checkpoint._MOST", 3)
    for number in range(8):
        write(store, "etc/new", str(number))
        store.checkpoint("box")
    assert_clean(root)
    store.rollback("box", "2")
    assert Path(store.container("box").path, "etc/new").read_text() == "1"
    store.remove_container("box")
    assert_clean(root)
