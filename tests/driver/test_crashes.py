"""Whatever ends a process, and whenever: layers are whole, and the next start clears the rest."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.driver.clone_times import boot_id
from reflayer.errors import CopyError, OperationError, ReflayerError
from tests.driver.layers import leftovers, make, tree, wait_until
from tests.file_systems import mounted
from tests.trees import assert_same

_LOOP = """
import random, sys
from reflayer.driver import Driver
driver = Driver(sys.argv[1])
dice = random.Random(int(sys.argv[2]))
print("ready", flush=True)
while True:
    id = f"{dice.choice(['clone', 'build', 'empty'])}-{dice.randrange(3)}"
    if driver.exists(id):
        driver.remove(id, wait=dice.random() < 0.7)
    elif id.startswith("build"):
        with driver.build(id, "base") as path:
            open(path + "/added", "w").close()
    elif id.startswith("empty"):
        driver.create(id)
    elif dice.random() < 0.2:
        with driver.build(id, "base"):
            pass
    else:
        driver.create(id, "base")
"""
_KILLS = 7  # on each file system


def make_base(driver: Driver) -> None:
    with driver.build("base") as path:
        for number in range(40):
            folder = Path(path) / f"{number}/below"
            folder.mkdir(parents=True)
            for name in range(12):
                (folder / str(name)).write_bytes(b"x" * name)
            os.link(folder / "0", folder.parent / "link")


def test_a_process_killed_at_any_moment_leaves_whole_layers_and_nothing_else(
    place: Path,
) -> None:
    seed = sum(os.fsencode(place.parent.name))
    dice = random.Random(seed)
    home = str(place / "home")
    make_base(Driver(home))
    base = tree(f"{home}/dir/base")
    for kill in range(_KILLS):
        command = [sys.executable, "-c", _LOOP, home, str(seed + kill)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(dice.random() ** 2 * 0.4)
            process.kill()
        driver = Driver(home)
        assert "base" in driver.list()
        for id in driver.list():
            layer = dict(tree(driver.path(id)))
            if id.startswith("empty"):
                assert list(layer) == [b"."]
                continue
            if id.startswith("build"):
                del layer[b"added"]
                layer[b"."] = base[b"."]  # whose time has changed by it
            assert_same(base, layer)
        # A child between fork and exec may hold the dead one's locks a little longer.
        wait_until(lambda: leftovers(Driver(home)) == [])


_BUILD = """
import os, sys
from reflayer.driver import Driver
with Driver(sys.argv[1]).build("slow") as path:
    print(path, flush=True)
    sys.stdin.readline()
    open(path + "/complete", "w").close()
"""


def start_build(home: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _BUILD, home],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().rstrip("\n")


def test_the_build_of_a_living_process_is_left_alone(place: Path) -> None:
    driver = Driver(place / "home")
    process, path = start_build(driver.home)
    Driver(driver.home)
    assert os.path.isdir(path)
    process.communicate("\n")
    assert process.returncode == 0
    assert os.listdir(driver.path("slow")) == ["complete"]
    assert leftovers(driver) == []


def test_the_build_of_a_dead_process_is_cleared(place: Path) -> None:
    driver = Driver(place / "home")
    process, path = start_build(driver.home)
    with process:
        process.send_signal(signal.SIGKILL)
    assert os.path.isdir(path)
    Driver(driver.home)
    assert not os.path.exists(path)
    wait_until(lambda: leftovers(driver) == [])
    driver.create("slow")


def test_a_build_of_this_process_is_left_alone(place: Path) -> None:
    driver = Driver(place / "home")
    with driver.build("slow") as path:
        (Path(path) / "file").touch()
        Driver(place / "home")
    assert os.listdir(driver.path("slow")) == ["file"]


def test_what_a_crash_between_two_steps_left_is_cleared(place: Path) -> None:
    driver = Driver(place / "home")
    builds = Path(driver.home) / "tmp"
    (builds / "only-claimed.00.lock").touch()
    (builds / "claim-lost.00/folder").mkdir(parents=True)
    (builds / "both.00").mkdir()
    (builds / "both.00.lock").touch()
    note = Path(driver.home) / "cloned" / str(boot_id()) / "both.00"
    note.parent.mkdir(parents=True)
    note.touch()
    Driver(driver.home)
    assert list(builds.iterdir()) == []
    assert not note.exists()
    wait_until(lambda: leftovers(driver) == [])


def test_a_build_never_has_a_name_that_a_sweep_has_seen_without_a_lock(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(place / "home")
    builds = Path(driver.home) / "tmp"
    flock = fcntl.flock
    swept: list[str] = []

    def sweep_first(fd: int, operation: int) -> None:
        for lock in builds.glob("*.lock") if not swept else ():
            swept.append(lock.name)
            lock.unlink()  # as a sweep does that locks the file before the one who has made it
        flock(fd, operation)

    monkeypatch.setattr("fcntl.flock", sweep_first)
    with driver.build("slow") as path:
        assert len(swept) == 1
        assert f"{os.path.basename(path)}.lock" not in swept
        assert sorted(os.listdir(builds)) == [
            os.path.basename(path),
            os.path.basename(path) + ".lock",
        ]
    assert leftovers(driver) == []


_SWEEP_AS_ON_NFS = """
import fcntl, sys
fcntl.flock = fcntl.lockf
from reflayer.driver import Driver
Driver(sys.argv[1])
"""


def test_where_locks_belong_to_whole_processes_builds_are_left_alone_too(
    place_on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcntl.flock", fcntl.lockf)  # what NFS makes of flock(2)
    driver = Driver(place_on("ext4") / "home")
    with driver.build("slow") as path:
        Driver(driver.home)
        with driver.build("another"):
            pass
        subprocess.run([sys.executable, "-c", _SWEEP_AS_ON_NFS, driver.home], check=True)
        assert os.path.isdir(path)
    assert driver.list() == ["another", "slow"]
    assert leftovers(driver) == []


def test_a_parent_removed_during_its_clone_gives_no_half_layer(place: Path) -> None:
    driver = Driver(place / "home", method="stream")
    make(driver, "base")

    def remove(*_: object) -> None:
        driver.remove("base")

    with pytest.raises(ReflayerError, match="layer base was removed while it was being cloned"):
        driver.create("clone", "base", progress=remove)
    assert driver.list() == []
    assert leftovers(driver) == []


@pytest.mark.parametrize(("kind", "size"), [("ext4", 64), ("xfs", 320), ("btrfs", 256)])
def test_a_full_disk_is_an_error_that_leaves_nothing(kind: str, size: int, tmp_path: Path) -> None:
    with mounted(kind, tmp_path, size << 20) as place:
        driver = Driver(place / "home", method="stream")
        with driver.build("base") as path:
            for number in range(10):
                (Path(path) / str(number)).write_bytes(os.urandom(1 << 20))
        filler = place / "filler"
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_bsize
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - (5 << 20))
        os.sync()
        with pytest.raises((CopyError, OperationError), match="No space left"):
            driver.create("clone", "base")

        def build_too_much() -> None:
            with driver.build("next") as path:
                (Path(path) / "file").write_bytes(bytes(20 << 20))

        with pytest.raises((OSError, OperationError), match="No space left"):
            build_too_much()
        assert driver.list() == ["base"]
        assert leftovers(driver) == []
        filler.unlink()
        os.sync()
        driver.create("clone", "base")
        assert_same(tree(driver.path("base")), tree(driver.path("clone")))
