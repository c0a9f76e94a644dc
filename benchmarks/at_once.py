"""What does a container cost where a spare is ready, and what do the spares cost?

Each step is timed in this process, or as a whole process of its own; the last column is what it may
take at most:

    TMPDIR=/dev/shm .venv/bin/python -m benchmarks.at_once --file-system xfs --tree debian
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from benchmarks.places import MKFS, mounted, tree
from benchmarks.question import REFLAYER
from reflayer.bench.methods import machine_facts, scratch
from reflayer.store import Container, Store

_IN_A_ROW = 100
_CHANGED = 200  # entries of a container that is recycled
_PATIENCE = 0.005  # seconds between two looks


class Setting:
    """A store with the tree as its image.

    Attributes:
        store: the store.
        image: the image's id.
    """

    def __init__(self, place: Path, source: Path) -> None:
        self.place = place
        self._root = place / "store"
        self.store = Store(self._root)
        with self.store.create(f"rootfs:{source}") as first:
            self.image = first.image_id
            self.store.tag(self.image, "bench:kept")
        self.store.prune()

    def create(self) -> Container:
        """A container, by the library."""
        return self.store.create(self.image)

    def run(self, *arguments: str) -> None:
        """A command."""
        command = [str(REFLAYER), f"--root={self._root}", *arguments]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    def until_still(self) -> None:
        """Wait until all spares that are wanted are ready, and nothing is being deleted."""
        trash = self._root / "layers/trash"
        while any(one.ready < one.count for one in self.store.spares()) or any(trash.iterdir()):
            time.sleep(_PATIENCE)

    def remove(self, container: Container) -> None:
        """Remove a container to its last file."""
        self.store.remove_container(container.id)
        self.until_still()

    def changed(self, entries: int) -> Container:
        """A container with some entries written, deleted, added or changed in their modes."""
        container = self.create()
        found = [path for path in sorted(Path(container.path).rglob("*")) if path.is_file()]
        plain = [path for path in found if not path.is_symlink()]
        for number, path in enumerate(
            plain[:: max(len(plain) // entries, 1)][:entries] if entries else []
        ):
            match number % 4:
                case 0:
                    path.unlink()
                case 1:
                    path.write_bytes(b"changed")
                case 2:
                    path.with_name(f"{path.name}.new").touch()
                case 3:
                    path.chmod(0o600)
        return container

    def recycle(self, container: Container) -> list[str]:
        """Remove a container so that it is a spare; why it was deleted, if it was."""
        warnings: list[str] = []
        self.store.remove_container(container.id, recycle=True, warn=warnings.append)
        return warnings

    def free(self) -> tuple[int, int]:
        """Bytes and inodes that are free, when the file system has done what it does behind."""
        found = None
        while True:
            os.sync()
            now = os.statvfs(self.place)
            if found == (told := (now.f_bfree * now.f_frsize, now.f_ffree)):
                return told
            found = told
            time.sleep(0.5)


def timed(
    step: Callable[[], object],
    runs: int,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
) -> list[float]:
    """The milliseconds of a step, ``runs`` times after one that warms the caches."""
    spent = []
    for _ in range(runs + 1):
        before()
        started = time.perf_counter()
        step()
        spent.append((time.perf_counter() - started) * 1e3)
        after()
    return spent[1:]


def told(name: str, spent: list[float], of: list[float] | None = None, limit: str = "") -> None:
    """A line of the table."""
    part = "" if of is None else f"{median(spent) / median(of):.3f}"
    late = quantiles(spent, n=20, method="inclusive")[-1]
    figures = f"{median(spent):.2f} | {late:.2f} | {max(spent):.2f} | {part}"
    print(f"| {name} | {figures} | {limit} |", flush=True)


def measure(setting: Setting, runs: int) -> None:
    """All steps, each a line."""
    store, image = setting.store, setting.image
    made: list[Container] = []

    def create() -> None:
        made.append(setting.create())

    def remove() -> None:
        setting.remove(made.pop())

    def change(entries: int) -> None:
        made.append(setting.changed(entries))

    def recycle() -> None:
        warnings = setting.recycle(made.pop())
        assert not warnings, warnings

    clones = timed(create, runs, after=remove)
    told("`Store.create`, a clone", clones)
    removed = timed(remove, runs, create)
    told("its removal", removed)
    store.warm(image, 1)
    spent = timed(create, runs * 5, after=remove)
    told("`Store.create`, a spare ready", spent, clones, "95 of 100: 2")
    version = timed(lambda: setting.run("--version"), runs)
    told("`reflayer --version`", version)

    def remove_named() -> None:
        setting.remove(store.container("bench"))

    process = timed(lambda: setting.run("create", "--name=bench", image), runs, after=remove_named)
    told("`reflayer create`, a spare ready, of that", process, version, "part: 1.5")

    store.warm(image, 0)
    setting.until_still()
    of_both = [one + other for one, other in zip(clones, removed, strict=True)]
    change(0)
    for entries in () if setting.recycle(made.pop()) else (0, _CHANGED):
        recycled = timed(recycle, runs, partial(change, entries))
        name = f"recycling, {entries} entries changed, of clone and removal"
        told(name, recycled, of_both, "median: 40, part: 0.15")
    store.warm(image, 0)
    store.warm(image, _IN_A_ROW)
    spent.clear()
    for _ in range(_IN_A_ROW):
        started = time.perf_counter()
        create()
        spent.append((time.perf_counter() - started) * 1e3)
    name = f"{_IN_A_ROW} times `Store.create` in a row, as many spares ready"
    told(name, spent, limit="longest: 10")
    store.warm(image, 0)
    while made:
        store.remove_container(made.pop().id)
    setting.until_still()

    def copied() -> None:
        command = [str(REFLAYER), "copy", source, str(setting.place / "copy")]
        subprocess.run(command, check=True, capture_output=True)

    def uncopied() -> None:
        subprocess.run(["rm", "-rf", setting.place / "copy"], check=True)

    create()
    source = made[-1].path
    alone = timed(copied, runs, after=uncopied)
    told("`reflayer copy` alone", alone)
    beside = []
    for _ in range(runs):
        store.warm(image, 200, wait=False)
        time.sleep(0.2)  # it has begun by then
        beside += timed(copied, 1, after=uncopied)
    told("`reflayer copy` beside what makes spares, of that", beside, alone, "part: 1.15")
    store.warm(image, 0)
    setting.until_still()
    remove()


def last(setting: Setting, times: int) -> None:
    """What ``times`` containers that came and went have left."""
    store = setting.store
    store.warm(setting.image, 4)

    def state() -> tuple[int, int, int, int]:
        setting.until_still()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (*setting.free(), len(os.listdir("/proc/self/fd")), memory)

    def rounds(count: int) -> None:
        for _ in range(count):
            while not any(one.ready for one in store.spares()):
                time.sleep(_PATIENCE)
            store.remove_container(setting.create().id, wait=False)

    rounds(times // 10)
    before = state()
    rounds(times)
    after = state()
    lost = [was - now for was, now in zip(before, after, strict=True)]
    print(
        f"\n{times} containers made of spares and removed: {lost[0] >> 10} KiB and "
        f"{lost[1]} inodes less are free, {-lost[2]} descriptors and {-lost[3]} KiB more in use"
    )


def measure_in(folder: Path, runs: int, lasting: int) -> None:
    """Measure in a store of its own, which is shut in the end; the tree is there."""
    setting = Setting(folder, folder / "tree")
    try:
        measure(setting, runs)
        if lasting:
            last(setting, lasting)
    finally:  # else what makes spares keeps the file system busy, however this ended
        setting.store.warm(setting.image, 0)
        setting.until_still()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, default=[], action="append", metavar="DIR")
    parser.add_argument("--file-system", choices=[*MKFS], default=[], action="append")
    parser.add_argument("--tree", default="debian")
    parser.add_argument("--runs", type=int, default=9, metavar="N", help="at least 2")
    parser.add_argument("--lasting", type=int, default=1000, metavar="N")
    arguments = parser.parse_args()
    source = tree(arguments.tree)
    print(", ".join(machine_facts().values()))
    places: list[AbstractContextManager[Path]] = [*map(nullcontext, arguments.place)]
    for where in [*places, *map(mounted, arguments.file_system)]:
        with where as place, scratch(place) as folder:
            subprocess.run(["cp", "-a", "--", source, folder / "tree"], check=True)
            time.sleep(2.1)  # what has just changed is taken in anew
            print(f"\n{arguments.tree} on {place.name}: milliseconds\n")
            print("| | median | 95 of 100 | longest | part | at most |")
            print(f"|{' --- |' * 6}")
            measure_in(folder, arguments.runs, arguments.lasting)


if __name__ == "__main__":
    main()
