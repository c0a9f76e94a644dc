"""When a layer was cloned is noted, and what changed since then is told right whatever happens."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reflayer import archive
from reflayer.archive import compare, tree_diff
from reflayer.archive.compare import FolderPair
from reflayer.driver import Driver, clone_times
from reflayer.errors import CopyError
from tests.driver.layers import leftovers, make


@pytest.fixture(params=["xfs", "ext4", "btrfs", "tmpfs"])
def driver(
    request: pytest.FixtureRequest,
    place_on: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Driver:
    """A driver that copies, with a filled layer and its clone, all made some ticks ago."""

    def note(*arguments: str) -> str | None:
        time.sleep(0.03)  # as if there had been more to clone
        return clone_times.note(*arguments)

    monkeypatch.setattr("reflayer.driver.create.note", note)
    driver = Driver(place_on(request.param), method="auto" if request.param == "xfs" else "range")
    make(driver, "parent")
    time.sleep(0.03)  # the kernel's own clock goes by ticks
    driver.create("clone", "parent")
    time.sleep(0.03)
    return driver


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names of the files that were looked into since."""
    looked: list[bytes] = []
    look = compare.is_same_entry

    def is_same_entry(name: bytes, *others: object) -> bool:
        looked.append(name)
        return look(name, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(tree_diff, "is_same_entry", is_same_entry)
    return looked


def changes(driver: Driver, id: str = "clone", parent: str = "parent") -> list[tuple[str, str]]:
    return [(change.kind, change.path) for change in driver.changes(id, parent)]


def notes(driver: Driver) -> list[str]:
    folders = Path(driver.home, "cloned").glob("*/*")
    return sorted(path.name for path in folders)


def write_unseen(path: Path) -> None:
    """Change the content, and hide it as far as a program can."""
    before = path.stat()
    path.write_bytes(os.urandom(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_clone_is_not_looked_into(driver: Driver, looks: list[bytes]) -> None:
    assert changes(driver) == []
    with driver.diff("clone", "parent") as stream:
        assert stream.read() == bytes(1024)
    assert looks == []


def test_names_as_they_were_cloned_are_met_only_if_one_of_several_may_be_new(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[bytes] = []
    compare = tree_diff.TreeDiff._compare

    def note(
        self: tree_diff.TreeDiff, pair: FolderPair, name: bytes, *others: Any
    ) -> tuple[str, bytes]:
        met.append(name)
        return compare(self, pair, name, *others)

    monkeypatch.setattr(tree_diff.TreeDiff, "_compare", note)
    assert changes(driver) == []
    assert not met
    Path(driver.path("clone"), "new").touch()
    assert changes(driver) == [("A", "/new")]
    assert {*met} == {b"file", b"second name", b"new"}


def test_large_and_deep_folders_are_looked_through(driver: Driver) -> None:
    deep = "/".join(["folder"] * 23)
    base = Path(driver.path("clone"), deep)
    base.mkdir(parents=True)
    for number in range(2000):  # more than one call in C reads
        (base / f"{number}").touch()
    (base / "last/inside").mkdir(parents=True)
    driver.create("second", "clone")
    time.sleep(0.03)
    assert changes(driver, "second", "clone") == []
    for path in (deep, f"{deep}/last/inside"):
        (Path(driver.path("second"), path) / "new").touch()
    Path(driver.path("second"), deep, "1999").write_bytes(b"content")
    assert {path for _, path in changes(driver, "second", "clone")} == {
        *("/" + "/".join(["folder"] * depth) for depth in range(1, 24)),
        *(f"/{deep}/{name}" for name in ("1999", "last", "last/inside", "last/inside/new", "new")),
    }


def test_a_change_that_hides_is_told(driver: Driver) -> None:
    write_unseen(Path(driver.path("clone"), "folder/file"))
    assert ("C", "/folder/file") in changes(driver)


def test_a_parent_that_changes_afterwards_is_told(driver: Driver) -> None:
    write_unseen(Path(driver.path("parent"), "folder/file"))
    assert ("C", "/folder/file") in changes(driver)
    Path(driver.path("parent"), "folder").rename(Path(driver.path("parent"), "moved"))
    told = changes(driver)
    assert ("D", "/moved") in told
    assert ("A", "/folder") in told


def test_a_parent_that_was_filled_just_before_is_compared(driver: Driver) -> None:
    # As Docker does: it writes into a clone by its path, and clones that.
    write_unseen(Path(driver.path("clone"), "folder/file"))
    driver.create("second", "clone")
    assert changes(driver, "second", "clone") == []
    assert ("C", "/folder/file") in changes(driver, "second", "parent")


def test_of_another_layer_than_the_parent_the_time_tells_nothing(driver: Driver) -> None:
    make(driver, "other")
    write_unseen(Path(driver.path("other"), "folder/file"))
    assert driver.cloned("clone", "other") is None
    assert ("C", "/folder/file") in changes(driver, "clone", "other")


def test_a_note_that_is_lost_costs_a_look_and_nothing_else(
    driver: Driver, looks: list[bytes]
) -> None:
    (note,) = Path(driver.home, "cloned").glob("*/clone")
    note.unlink()
    assert changes(driver) == []
    assert b"file" in looks


@pytest.mark.parametrize("text", [b"", b"1 2 3", b"\xff", b"a b c d parent"])
def test_a_note_that_is_damaged_costs_a_look_and_nothing_else(
    driver: Driver, looks: list[bytes], text: bytes
) -> None:
    (note,) = Path(driver.home, "cloned").glob("*/clone")
    note.write_bytes(text)
    assert changes(driver) == []
    assert b"file" in looks


def test_a_note_goes_with_its_layer(driver: Driver) -> None:
    assert notes(driver) == ["clone"]
    driver.remove("clone")
    assert notes(driver) == []


def test_a_note_is_not_of_another_layer_that_got_the_name(driver: Driver) -> None:
    (note,) = Path(driver.home, "cloned").glob("*/clone")
    text = note.read_bytes()
    driver.remove("clone")
    driver.create("clone", "parent")
    note.write_bytes(text)
    assert driver.cloned("clone", "parent") is None


def test_a_clone_that_fails_leaves_no_note(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CopyError(b"somewhere", "publish", "it is forbidden")

    monkeypatch.setattr("reflayer.driver.create.publish", fail)
    with pytest.raises(CopyError, match="forbidden"):
        driver.create("second", "parent")
    assert notes(driver) == ["clone"]
    assert leftovers(driver) == []


def test_a_clock_that_was_set_is_not_believed(
    driver: Driver, looks: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: now() - 50_000_000)
    assert driver.cloned("clone", "parent") is None
    assert changes(driver) == []
    assert b"file" in looks


def test_notes_of_an_earlier_boot_are_not_believed_and_cleared(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clone_times, "boot_id", lambda: "another")
    assert driver.cloned("clone", "parent") is None
    driver.create("second", "parent")
    assert notes(driver) == ["second"]
    assert driver.cloned("second", "parent") is not None


def test_where_the_boot_cannot_be_told_there_are_no_notes(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clone_times, "boot_id", lambda: None)
    driver.create("second", "parent")
    assert driver.cloned("second", "parent") is None
    driver.remove("second")
    assert notes(driver) == ["clone"]


def test_where_a_server_stamps_the_files_there_are_no_notes(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflayer.linux.statfs.file_system_name", lambda _: "nfs")
    driver.create("second", "parent")
    assert notes(driver) == ["clone"]
    assert driver.cloned("clone", "parent") is None


def test_a_layer_that_an_archive_was_applied_to_keeps_the_time_of_its_clone(
    driver: Driver, looks: list[bytes]
) -> None:
    write_unseen(Path(driver.path("clone"), "folder/file"))
    with driver.diff("clone", "parent") as stream:
        layer = stream.read()
    driver.create("second", "parent")
    time.sleep(0.03)
    driver.apply("second", io.BytesIO(layer))
    assert driver.cloned("second", "parent") is not None
    looks.clear()
    assert changes(driver, "second") == changes(driver)


def _edits(dice: random.Random, root: Path) -> Iterator[None]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for path in dice.sample(files, min(3, len(files))):
        match dice.randrange(4):
            case 0:
                write_unseen(path)
            case 1:
                path.unlink()
            case 2:
                path.rename(path.with_name(f"{path.name}-moved"))
            case 3:
                path.chmod(0o400)
        yield


@pytest.mark.parametrize("seed", range(4))
def test_with_the_time_and_without_it_the_same_is_told(driver: Driver, seed: int) -> None:
    dice = random.Random(seed)
    with driver.build("base") as path:
        for number in range(12):
            folder = Path(path, str(dice.randrange(4)))
            folder.mkdir(exist_ok=True)
            (folder / f"{number}").write_bytes(b"content")
    time.sleep(0.03)
    driver.create("work", "base")
    time.sleep(0.03 * dice.randrange(2))
    for _ in _edits(dice, Path(driver.path("work"))):
        pass
    for _ in _edits(dice, Path(driver.path("base"))):
        pass  # it must not happen, and is told all the same
    told = changes(driver, "work", "base")
    slow = archive.changes(driver.path("work"), driver.path("base"))
    assert told == [(change.kind, change.path) for change in slow]
    if seed < 2:
        assert driver.cloned("work", "base") is not None


@pytest.mark.parametrize("tells", [True, False], ids=["stamps", "ticks"])
@pytest.mark.parametrize("kind", ["xfs", "ext4", "btrfs", "tmpfs"])
def test_a_time_is_after_all_stamps_until_then_and_before_all_to_come(
    place_on: Callable[[str], Path], kind: str, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tells:
        monkeypatch.setattr(clone_times, "_stamp", lambda _: None)
    place = place_on(kind)
    files = [place / name for name in ("looked at", "not looked at")]
    for number in range(50):
        for file in files:
            file.write_text(str(number))
        files[0].stat()
        files[0].chmod(0o600 + number % 2)
        before = [file.stat().st_ctime_ns for file in files]
        time = clone_times.later(str(place))
        new = place / f"new{number}"
        new.touch()
        files[1].chmod(0o600 + number % 2)
        assert max(before) < time <= min(new.stat().st_ctime_ns, files[1].stat().st_ctime_ns)
