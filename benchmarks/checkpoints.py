"""What do a checkpoint, a rollback and a fork cost, and what does the thousandth checkpoint?

Library calls on a container of the tree: 100 files of 20 KiB are written anew, 20 are made, 20
deleted and a folder is renamed; then a checkpoint is made, the same is done once more, and it is
rolled back, to that checkpoint, to the one before and to that again. What was done before is
written out and deleted before each change. Beside it a ``cp -a --reflink`` of the container, a
clone of the image, and on btrfs a snapshot of the container by ``btrfs``; and after the same change
in a container of Docker ``docker commit``, and ``docker run`` of what that has made, with overlay2
or vfs where that is missing. Medians of the runs, in milliseconds.

    .venv/bin/python -m benchmarks.checkpoints --file-system xfs --file-system ext4
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from benchmarks.docker.engine import Engine
from benchmarks.places import MKFS, mounted, tree
from benchmarks.processes import output, run
from benchmarks.question import Setting
from reflayer.bench.methods import scratch
from reflayer.copy import copy_tree
from reflayer.driver import Driver
from reflayer.driver.home import opened
from reflayer.linux.libc import syncfs

_SIZE = 20 << 10  # bytes
_WRITTEN, _FEW = 100, 20
_SUBVOLUME = 256  # the inode of each root on btrfs

Times = dict[str, list[float]]


def change(root: Path, mark: int) -> None:
    """Do what is to be kept or undone."""
    work = root / "work"
    for number in range(_WRITTEN):
        (work / f"{number % 10}/file{number}").write_bytes(os.urandom(_SIZE))
    for number in range(_FEW):
        (work / f"new{mark}.{number}").write_bytes(os.urandom(_SIZE))
        (work / f"gone{mark}.{number}").unlink(missing_ok=True)
    [folder] = work.glob("folder*")
    shutil.move(folder, work / f"folder{mark}")  # which overlayfs may not rename


def prepare(root: Path) -> None:
    """Have the files that are changed."""
    for number in range(10):
        (root / f"work/{number}").mkdir(parents=True)
    (root / "work/folder/in").mkdir(parents=True)
    for number in range(_WRITTEN):
        (root / f"work/{number % 10}/file{number}").write_bytes(os.urandom(_SIZE))
        (root / f"work/folder/in/{number}").write_bytes(b"x")
    for mark in range(1000):
        for number in range(_FEW if mark < 20 else 0):
            (root / f"work/gone{mark}.{number}").write_bytes(b"x")


def settle(home: Path, place: Path) -> None:
    """Let nothing be left to do of what was done before."""
    while any((home / "trash").iterdir()):
        time.sleep(0.01)
    with opened(str(place)) as folder:
        syncfs(folder)


def space(place: Path) -> int:
    """Bytes that are free on the file system, when all is written out."""
    with opened(str(place)) as folder:
        syncfs(folder)
        status = os.fstatvfs(folder)
    return status.f_bfree * status.f_frsize


def timed(times: Times, name: str, step: Callable[[], object]) -> None:
    """Do a step and note how long it took."""
    started = time.perf_counter()
    step()
    times.setdefault(name, []).append((time.perf_counter() - started) * 1000)


def checkpoint(driver: Driver, id: str, new: str) -> None:
    """As the store does, without its records."""
    with driver.changing(id), driver.checkpoint(id, new):
        pass


def rollback(driver: Driver, id: str, to: str) -> None:
    """Likewise."""
    with driver.changing(id):
        driver.rollback(id, to)


def measure(place: Path, source: Path, runs: int, many: int) -> Iterator[tuple[str, float]]:
    """Each step's name, and its median."""
    driver = Driver(place / "home")
    with driver.build("image") as path:
        os.rmdir(path)
        copy_tree(source, path)
        prepare(Path(path))
    times: Times = {}
    driver.create("box", "image")
    root = Path(driver.path("box"))
    is_snapshot = root.stat().st_ino == _SUBVOLUME
    before = "start"
    checkpoint(driver, "box", before)
    for number in range(runs):
        settle(place / "home", place)
        change(root, 2 * number)
        layer = f"layer{number}"
        timed(times, "checkpoint", lambda: checkpoint(driver, "box", layer))  # noqa: B023
        none = f"none{number}"
        timed(times, "checkpoint, nothing changed", lambda: checkpoint(driver, "box", none))  # noqa: B023
        settle(place / "home", place)
        change(root, 2 * number + 1)
        timed(times, "rollback", lambda: rollback(driver, "box", layer))  # noqa: B023
        timed(times, "rollback, nothing changed", lambda: rollback(driver, "box", layer))  # noqa: B023
        timed(times, "rollback to another", lambda: rollback(driver, "box", before))  # noqa: B023
        timed(times, "and forth", lambda: rollback(driver, "box", layer))  # noqa: B023
        before = layer
        timed(times, "clone of the image", lambda: driver.create("clone", "image"))
        timed(times, "fork", lambda: driver.create("fork", layer))  # noqa: B023
        copy = place / "copy"
        reflink = ["cp", "-a", "--reflink=auto", str(root), str(copy)]
        timed(times, "cp -a --reflink", lambda: subprocess.run(reflink, check=True))  # noqa: B023
        subprocess.run(["rm", "-rf", copy], check=True)
        if is_snapshot:
            snapshot = ["btrfs", "-q", "subvolume", "snapshot", str(root), str(copy)]
            timed(times, "btrfs snapshot", lambda: subprocess.run(snapshot, check=True))  # noqa: B023
            subprocess.run(["btrfs", "-q", "subvolume", "delete", copy], check=True)
        driver.remove("clone")
        driver.remove("fork")
    free = space(place)
    for number in range(many):
        (root / "work/0/file0").write_text(str(number))
        layer = f"many{number}"
        name = "the tenth" if 5 <= number < 15 else "the last" if number >= many - 10 else "others"
        timed(times, f"of {many} checkpoints {name}", lambda: checkpoint(driver, "box", layer))  # noqa: B023
    if many:
        taken = free - space(place)
        timed(times, "clone of the last", lambda: driver.create("fork", layer))
        yield f"of {many} checkpoints, KiB of the disk for each", taken / many / 1024
    yield from medians(times)
    with ExitStack() as stack:
        yield from medians(docker(Setting(place, Path(driver.path("image"))), stack, runs))


def docker(setting: Setting, stack: ExitStack, runs: int) -> Times:
    """The same by whole ``docker`` commands: a commit, and a container of it."""
    engines = (Engine(setting, stack, name) for name in ("overlay2", "vfs"))
    engine = next((engine for engine in engines if engine.missing is None), None)
    if engine is None:
        return {}
    engine.load(setting)
    start = ["run", "--detach", "--network=host"]
    run(engine.docker(*start, "--name=box", "tree", "sleep", "infinity"))
    [pid] = output(engine.docker("inspect", "--format={{.State.Pid}}", "box")).split()
    times: Times = {}
    for number in range(runs):
        with opened(str(setting.folder)) as folder:
            syncfs(folder)
        change(Path(f"/proc/{pid}/root"), number)
        commit = engine.docker("commit", "box", "checkpoint")
        timed(times, f"docker commit ({engine.name})", lambda: run(commit))  # noqa: B023
        fork = engine.docker(*start, "--name=fork", "checkpoint", "sleep", "infinity")
        timed(times, f"docker run of it ({engine.name})", lambda: run(fork))  # noqa: B023
        run(engine.docker("rm", "--force", "fork"))
        run(engine.docker("rmi", "checkpoint"))
    run(engine.docker("rm", "--force", "box"))
    return times


def medians(times: Times) -> Iterator[tuple[str, float]]:
    """Each step's name, and its median."""
    for name, taken in times.items():
        yield name, statistics.median(taken)


def main() -> None:
    """Measure, and print a table for each place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file-system", action="append", choices=[*MKFS], default=[])
    parser.add_argument("--place", action="append", type=Path, default=[])
    parser.add_argument("--tree", default="debian")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--many", type=int, default=0, help="checkpoints in a row")
    arguments = parser.parse_args()
    places: list[tuple[str, AbstractContextManager[Path]]] = [
        (kind, mounted(kind)) for kind in arguments.file_system
    ]
    places += [(str(place), nullcontext(place)) for place in arguments.place]
    source = tree(arguments.tree)
    for name, place in places:
        with place as folder, scratch(folder) as inside:
            print(f"| {name} | ms |\n| --- | --- |")
            for step, taken in measure(Path(inside), source, arguments.runs, arguments.many):
                print(f"| {step} | {taken:.1f} |")


if __name__ == "__main__":
    main()
