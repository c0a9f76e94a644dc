"""Whatever ends a process that works on differences: stacks are whole, and so are trees."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.driver.clone_times import boot_id
from reflayer.driver.differences import difference_path, is_empty
from reflayer.errors import OperationError
from tests.driver.layers import archive_of, kept, leftovers, tree, wait_until
from tests.file_systems import fill_up, mounted, require_root
from tests.trees import Facts, assert_same

_LOOP = """
import random, sys
from pathlib import Path
from reflayer.archive import apply_layer
from reflayer.driver import Driver
from reflayer.errors import LayerError
home, method, seed = sys.argv[1:4]
archives = {name: Path(path).read_bytes() for name, path in zip(("one", "two"), sys.argv[4:])}
import io
driver = Driver(home, method=method)
dice = random.Random(int(seed))
print("ready", flush=True)

def fill(id, kind, parent):
    if dice.random() < 0.4:
        driver.create_difference(id, parent)
        driver.apply(id, io.BytesIO(archives[kind]))
    elif dice.random() < 0.5:
        with driver.build_difference(id, parent) as upper:
            apply_layer(upper, io.BytesIO(archives[kind]), below=lambda: driver.stack(parent))
    else:
        driver.create_difference(id, None)
        upper, blob = driver.folder(id), io.BytesIO(archives[kind])
        try:
            apply_layer(upper, blob, below=lambda: driver.stack(parent))
            driver.rebase(id, parent)
        except LayerError:
            driver.remove(id)
            raise
        driver.sync(id)

while True:
    kind = dice.choice(["one", "two", "box", "new", "took", "base"])
    id = f"{kind}-{dice.randrange(2)}"
    below = f"one-{dice.randrange(2)}"
    if not driver.exists("one-0"):
        fill("one-0", "one", "base")
    try:
        if driver.exists(id):
            what = dice.choice(["remove", "get", "get", "whole", "start"])
            if what == "remove":
                driver.remove(id, wait=dice.random() < 0.7)
                if kind == "took":
                    driver.remove(f"{id}-init")
            elif what == "get":
                driver.get(id)
                driver.put(id)
            elif what == "whole":
                driver.make_whole(id)
            else:
                Driver(home, method=method).drop_trees()
        elif kind == "one":
            fill(id, kind, "base")
        elif kind == "two":
            fill(id, kind, below)
        elif kind == "box":
            driver.create(id, below)
        elif kind == "new":
            driver.create_difference(id, below)
        elif kind == "took":
            driver.create_difference(f"{id}-init", below)
            driver.path(f"{id}-init")
            driver.take_over(id, f"{id}-init") or driver.create(id, f"{id}-init")
        elif kind == "base":
            with driver.build_difference(id, "base"):
                pass
    except LayerError as error:
        assert "there is no layer" in str(error) or "exists already" in str(error), error
"""
_KILLS = 6  # on each file system


def begin(home: Path, method: str) -> tuple[Driver, list[Path], dict[str, Mapping[bytes, Facts]]]:
    """A driver with a layer ``base``, two archives of further ones, and the trees of all three."""
    driver = Driver(home, method=method)
    with driver.build("base") as path:
        for number in range(20):
            folder = Path(path) / f"{number}/below"
            folder.mkdir(parents=True)
            for name in range(8):
                (folder / str(name)).write_bytes(b"x" * name)
            os.link(folder / "0", folder.parent / "link")
    driver.create("whole", "base")

    def first(root: Path) -> None:
        for number in range(0, 20, 3):
            (root / f"{number}/link").unlink()
            (root / f"{number}/below/0").chmod(0o640)
            (root / f"{number}/added").mkdir()

    def second(root: Path) -> None:
        for number in range(0, 20, 5):
            (root / f"{number}/below").rename(root / f"{number}/moved")

    trees = {"base": tree(driver.path("base"))}
    archives = []
    for kind, edit in (("one", first), ("two", second)):
        archives.append(home.parent / kind)
        archives[-1].write_bytes(archive_of(driver, "whole", edit).getvalue())
        trees[kind] = tree(driver.path("whole"))
    driver.remove("whole")
    return driver, archives, trees


_SAME = {"box": "one", "new": "one", "took": "one"}


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_process_killed_at_any_moment_breaks_no_stack_and_leaves_nothing_else(
    place_on: Callable[[str], Path], kind: str
) -> None:
    place = place_on(kind)
    home, method = place / "home", kept(kind)
    _, archives, trees = begin(home, method)
    dice = random.Random(kind)
    for kill in range(_KILLS):
        command = [sys.executable, "-c", _LOOP, str(home), method, str(kill), *map(str, archives)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(dice.random() * 0.8)
            alive = process.poll() is None
            process.kill()
        assert alive, "the loop failed"
        driver = Driver(home, method=method)
        marks = home / "trees" / str(boot_id())
        for id in {*os.listdir(home / "dir")} & {*os.listdir(home / "differences")}:
            assert not driver.lower(id) or (marks / id).exists(), f"{id} may be cut off"
        for id in driver.list():
            was_told = driver.lower(id) is not None or driver.folder(id) == f"{home}/dir/{id}"
            is_new = id.startswith(("one", "two")) and is_empty(difference_path(str(home), id))
            if not was_told or is_new:
                driver.remove(id)  # it died between two of its calls
                continue
            driver.create("clone", id)
            expected = trees[_SAME.get(id.split("-")[0], id.split("-")[0])]
            assert_same(expected, tree(driver.path("clone")))
            assert_same(expected, tree(driver.path(id)))
            driver.remove("clone")
        driver.drop_trees()
        wait_until(lambda: leftovers(Driver(home, method=method)) == [])
    for id in driver.list():
        driver.remove(id)
    assert not [*(home / "dir").iterdir(), *(home / "differences").iterdir()]
    assert not [*(home / "children").iterdir(), *marks.iterdir()]


@pytest.mark.parametrize(("kind", "size"), [("ext4", 64), ("xfs", 320), ("btrfs", 256)])
def test_on_a_full_disk_each_step_is_an_error_that_leaves_all_as_it_was(
    kind: str, size: int, tmp_path: Path
) -> None:
    require_root()
    with mounted(kind, tmp_path, size << 20) as place:
        method = kept(kind)
        driver, archives, trees = begin(place / "home", method)
        for id, below, archive in (("one", "base", archives[0]), ("two", "one", archives[1])):
            driver.create_difference(id, below)
            driver.apply(id, io.BytesIO(archive.read_bytes()))
        driver.create_difference("init", "one")
        (Path(driver.path("init")) / "added").touch()
        driver.create_difference("untold", None)
        driver.create_difference("new", "one")
        assert driver.keeps_differences
        large = archive_of(driver, "base", lambda _: None, parent=None).getvalue()
        there = driver.list()
        fill_up(place)

        def build() -> None:
            with driver.build_difference("built", "one") as upper:
                (Path(upper) / "file").write_bytes(bytes(1 << 20))

        steps: list[Callable[[], object]] = [
            lambda: driver.create_difference("made", "one"),
            lambda: driver.create("box", "two"),
            build,
            lambda: driver.path("two"),
            lambda: driver.path("new"),
            lambda: driver.make_whole("init"),
            lambda: driver.remove("one"),
            lambda: driver.apply("new", io.BytesIO(large)),
        ]
        failures = []
        for step in steps:
            try:
                step()
            except (OperationError, OSError) as error:
                failures.append(str(error))
        assert failures
        assert all("No space left" in failure for failure in failures), failures
        there = [id for id in there if id in driver.list()]
        assert {"two", "init", "untold", "base"} <= {*there}
        for name in ("full", "names"):
            subprocess.run(["rm", "-rf", str(place / name)], check=True)
        Driver(driver.home, method=method)
        wait_until(lambda: leftovers(driver) == [])
        assert_same(trees["two"], tree(driver.path("two")))
        if "one" in there:
            assert_same(trees["one"], tree(driver.path("one")))
        driver.create("last", "two")


@pytest.mark.parametrize("kind", ["ext4", "btrfs", "tmpfs"])
def test_all_can_be_removed_from_a_full_disk(kind: str, tmp_path: Path) -> None:
    require_root()
    with mounted(kind, tmp_path, 256 << 20) as place:
        driver, archives, _ = begin(place / "home", kept(kind))
        driver.create_difference("one", "base")
        driver.apply("one", io.BytesIO(archives[0].read_bytes()))
        driver.path("one")
        driver.create_difference("two", "one")
        fill_up(place)
        for id in ("two", "one", "base"):
            driver.remove(id, wait=False)
        assert driver.list() == []
        wait_until(lambda: leftovers(driver) == [])
