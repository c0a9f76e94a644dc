"""Layers that are differences on others: made, filled, cloned, told of and removed."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.archive import apply_layer
from reflayer.driver import Driver, home
from reflayer.driver.home import opened
from reflayer.errors import ArchiveError, LayerError, OperationError
from reflayer.walk.overlay import WHITEOUT_MODE, Marks
from tests.archive.tars import entry, tar
from tests.driver.layers import (
    archive_of,
    change,
    inside,
    kept,
    leftovers,
    make,
    more,
    run_as,
    stacked,
    tree,
    wait_until,
)
from tests.trees import assert_same


@pytest.fixture(params=["xfs", "ext4", "btrfs", "tmpfs"])
def driver(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    """A driver that keeps differences, with the whole layer ``base``."""
    driver = Driver(place_on(request.param) / "home", method=kept(request.param))
    make(driver, "base")
    return driver


def test_a_clone_of_differences_is_the_tree_that_their_archives_make(driver: Driver) -> None:
    stacked(driver)
    expected = tree(driver.path("whole"))
    driver.create("box", "top")
    assert_same(expected, tree(driver.path("box")))
    assert inside(driver, "dir") == ["base", "box", "whole"]
    assert inside(driver, "differences") == ["middle", "top"]
    assert driver.list() == ["base", "box", "middle", "top", "whole"]
    assert all(map(driver.exists, driver.list()))
    assert leftovers(driver) == []
    assert list(driver.changes("box", "top")) == []
    assert driver.cloned("box", "top") is not None


def test_each_tells_where_it_is_and_what_it_lies_on(driver: Driver) -> None:
    stacked(driver)
    assert [driver.lower(id) for id in ("top", "middle", "base")] == ["middle", "base", None]
    own = f"{driver.home}/differences/top/upper"
    assert driver.folder("top") == own
    assert driver.folder("base") == f"{driver.home}/dir/base"
    below = [f"{driver.home}/differences/middle/upper", f"{driver.home}/dir/base"]
    assert list(map(os.fsdecode, driver.stack("top").paths)) == [own, *below]
    assert driver.metadata("top") == {
        "Path": f"{driver.home}/dir/top",
        "References": "0",
        "UpperDir": own,
        "LowerDir": ":".join(below),
    }
    assert not os.path.exists(f"{driver.home}/dir/top")


def test_what_is_different_is_read_from_it_and_not_compared(driver: Driver) -> None:
    driver.create("whole", "base")
    archive = archive_of(driver, "whole", change)
    driver.create_difference("layer", "base")
    driver.apply("layer", archive)
    assert list(driver.changes("layer", "base")) == list(driver.changes("whole", "base"))
    with driver.diff("layer", "base") as packed:
        assert packed.read() == archive.getvalue()
    assert driver.diff_size("layer", "base") == driver.diff_size("whole", "base")
    assert driver.usage("layer", "base").bytes <= driver.usage("whole").bytes
    assert driver.cloned("layer", "base") is None
    assert inside(driver, "trees/*") == []


@pytest.mark.parametrize(
    ("name", "own", "is_there"),
    [
        ("folder/new", "", True),
        ("own/new", "folder", True),
        ("lib/new", "", False),
        ("own/new", "lib", False),
    ],
)
def test_its_folder_has_the_paths_of_its_archive_unless_they_lead_by_a_link_below(
    driver: Driver, name: str, own: str, is_there: bool
) -> None:
    (Path(driver.path("base")) / "lib").symlink_to("folder")
    driver.create_difference("layer", "base")
    assert not driver.has_archive_paths("layer")
    link = entry("own", kind="symlink", target=own or "elsewhere")
    driver.apply("layer", io.BytesIO(tar(link, entry(name, b"content"))))
    assert driver.has_archive_paths("layer") is is_there
    assert (Path(driver.folder("layer")) / name).exists() is is_there
    driver.create("box", "layer")
    assert (Path(driver.path("box")) / name).read_bytes() == b"content"
    assert not driver.has_archive_paths("base")


def test_what_is_different_from_another_layer_is_told_by_its_tree(driver: Driver) -> None:
    stacked(driver)
    for parent in (None, "base"):
        assert list(driver.changes("top", parent)) == list(driver.changes("whole", parent))
        assert driver.diff_size("top", parent) == driver.diff_size("whole", parent)
    assert inside(driver, "dir") == ["base", "whole"]


def test_one_that_nobody_has_filled_becomes_whole_when_its_tree_is_asked_for(
    driver: Driver,
) -> None:
    base = tree(driver.path("base"))
    driver.create_difference("layer", "base")
    path = Path(driver.get("layer"))
    assert driver.lower("layer") is None
    assert_same(base, tree(path))
    (path / "own").touch()
    driver.put("layer")
    assert [change.path for change in driver.changes("layer", "base")] == ["/own"]
    assert inside(driver, "differences", "children", "trees/*") == []


def test_one_that_was_filled_with_nothing_stays_a_difference(driver: Driver) -> None:
    driver.create_difference("applied", "base")
    driver.apply("applied", io.BytesIO(bytes(10240)))
    driver.create_difference("synced", "applied")
    driver.sync("synced")
    base = tree(driver.path("base"))
    for id in ("applied", "synced"):
        assert_same(base, tree(driver.path(id)))
        assert driver.lower(id) is not None


def test_an_archive_can_be_applied_to_one_that_is_filled(driver: Driver) -> None:
    driver.create("whole", "base")
    first, second = (archive_of(driver, "whole", edit) for edit in (change, more))
    driver.create_difference("layer", "base")
    driver.apply("layer", first)
    driver.apply("layer", second)
    assert_same(tree(driver.path("whole")), tree(driver.path("layer")))


def test_a_damaged_archive_takes_the_difference_with_it(driver: Driver) -> None:
    driver.create_difference("layer", "base")
    archive = archive_of(driver, "base", lambda _: None, parent=None).getvalue()
    with pytest.raises(ArchiveError, match="ends"):
        driver.apply("layer", io.BytesIO(archive[: len(archive) // 2]))
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_its_root_is_that_of_its_parent(driver: Driver) -> None:
    driver.create_difference("layer", "base")
    driver.create_difference("upon", "layer")
    before = tree(driver.path("base"))[b"."]
    for id in ("layer", "upon"):
        assert tree(driver.folder(id))[b"."] == before


def test_an_id_is_taken_by_either_form(driver: Driver) -> None:
    driver.create_difference("layer", "base")
    for make_again in (driver.create, driver.create_difference):
        for id in ("layer", "base"):
            with pytest.raises(LayerError, match=f"layer {id} exists already"):
                make_again(id, "base")
    with pytest.raises(LayerError, match="there is no layer nothing"):
        driver.create_difference("other", "nothing")
    for wrong in ("", "../base", "a/b"):
        with pytest.raises(LayerError, match="no layer's id"):
            driver.create_difference(wrong, "base")
        with pytest.raises(LayerError, match="no layer's id"):
            driver.create_difference("other", wrong)
    assert leftovers(driver) == []


def test_layers_are_built_side_by_side_and_published_in_order(driver: Driver) -> None:
    driver.create("whole", "base")
    first, second = (archive_of(driver, "whole", edit) for edit in (change, more))
    with driver.build_difference("top", "middle") as upper:
        with driver.build_difference("middle", "base") as below:
            apply_layer(below, first, below=lambda: driver.stack("base"))
        apply_layer(upper, second, below=lambda: driver.stack("middle"))
    driver.create("box", "top")
    assert_same(tree(driver.path("whole")), tree(driver.path("box")))


def test_one_whose_parent_is_not_there_at_the_end_is_not_published(driver: Driver) -> None:
    with (
        pytest.raises(LayerError, match="there is no layer nothing"),
        driver.build_difference("layer", "nothing"),
    ):
        pass
    with pytest.raises(RuntimeError), driver.build_difference("layer", "base"):
        raise RuntimeError
    assert driver.list() == ["base"]
    assert leftovers(driver) == []


def test_what_lies_on_a_layer_that_goes_becomes_whole(driver: Driver) -> None:
    stacked(driver)
    expected = {id: tree(driver.path(id)) for id in ("middle", "top")}
    driver.create_difference("new", "base")
    driver.remove("base")
    assert driver.lower("middle") is None
    assert driver.lower("new") is None
    assert driver.lower("top") == "middle"
    driver.remove("middle")
    assert driver.lower("top") is None
    assert_same(expected["top"], tree(driver.path("top")))
    assert driver.list() == ["new", "top", "whole"]
    assert inside(driver, "differences", "children", "trees/*") == []
    wait_until(lambda: leftovers(driver) == [])


def test_one_is_removed_with_its_tree(driver: Driver) -> None:
    stacked(driver)
    driver.get("top")
    driver.remove("top")
    assert driver.list() == ["base", "middle", "whole"]
    with pytest.raises(LayerError, match="there is no layer top"):
        driver.path("top")
    driver.put("top")
    driver.create("top")
    assert os.listdir(driver.path("top")) == []
    driver.remove("middle")
    assert inside(driver, "differences", "children", "trees/*") == []
    wait_until(lambda: leftovers(driver) == [])


def test_all_become_whole_for_the_way_back_to_vfs(driver: Driver) -> None:
    stacked(driver)
    expected = {id: tree(driver.path(id)) for id in driver.list()}
    told: list[tuple[int, int | None]] = []
    driver.make_all_whole(progress=lambda _, done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2)]
    assert inside(driver, "differences", "children", "trees/*") == []
    for id, before in expected.items():
        assert_same(before, tree(Path(driver.home) / "dir" / id))


def test_a_container_is_cloned_though_a_layer_below_goes_meanwhile(driver: Driver) -> None:
    stacked(driver)
    expected = tree(driver.path("whole"))
    gone: list[str] = []

    def remove_base(*_: object) -> None:
        if not gone:
            gone.append("base")
            driver.remove("base")

    driver.create("box", "top", progress=remove_base)
    assert_same(expected, tree(driver.path("box")))
    wait_until(lambda: leftovers(driver) == [])


def test_a_stack_with_a_layer_missing_is_named(driver: Driver) -> None:
    stacked(driver)
    os.rename(f"{driver.home}/dir/base", f"{driver.home}/away")
    for ask in (driver.path, driver.stack, lambda id: driver.create("box", id)):
        with pytest.raises(LayerError, match="there is no layer base, which top lies on"):
            ask("top")
    driver.remove("top")
    driver.remove("middle")
    assert driver.list() == ["whole"]


def test_where_a_clone_is_a_snapshot_layers_stay_whole(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("btrfs") / "home")
    make(driver, "base")
    assert not driver.keeps_differences
    report = driver.create_difference("layer", "base")
    assert report is not None
    assert report.method == "snapshot"
    assert driver.lower("layer") is None
    assert driver.status()["Layers"] == "whole"
    assert inside(driver, "differences") == []


def test_where_no_whiteouts_can_be_made_layers_stay_whole(
    place_on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    driver = Driver(place_on("ext4") / "home")
    monkeypatch.setattr(os, "mknod", refuse)
    driver.create_difference("layer", None)
    assert not driver.keeps_differences
    assert driver.folder("layer") == f"{driver.home}/dir/layer"
    assert leftovers(driver) == []


def test_the_differences_of_a_home_are_cloned_by_a_driver_that_takes_snapshots(
    place_on: Callable[[str], Path],
) -> None:
    home = place_on("btrfs") / "home"
    driver = Driver(home, method="reflink")
    make(driver, "base")
    stacked(driver)
    report = Driver(home).create("box", "top")
    assert report is not None
    assert report.method == "reflink"
    assert_same(tree(driver.path("whole")), tree(driver.path("box")))
    with pytest.raises(OperationError, match="it is a difference: use another method"):
        Driver(home, method="snapshot").create("other", "top")


def test_with_selinux_its_folder_is_labelled_and_so_is_its_tree(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(home, "_SELINUX", str(tmp_path))
    driver.create_difference("layer", "base", mount_label="a:b:c:s0")
    assert os.getxattr(driver.folder("layer"), "security.selinux") == b"a:b:c:s0\0"
    assert os.getxattr(driver.path("layer"), "security.selinux") == b"a:b:c:s0\0"


_RACE = """
import sys
from reflayer.driver import Driver
from reflayer.errors import LayerError
driver = Driver(sys.argv[1], method=sys.argv[2])
make = driver.create if sys.argv[3] == "whole" else driver.create_difference
driver.keeps_differences
print("ready", flush=True)
sys.stdin.readline()
won = []
for number in range(60):
    try:
        make(f"race-{number}", "base")
        won.append(number)
    except LayerError as error:
        assert "exists already" in str(error), error
print(*won)
"""


def test_of_two_processes_that_make_one_id_in_either_form_one_wins(
    driver: Driver, request: pytest.FixtureRequest
) -> None:
    method = kept(request.node.callspec.params["driver"])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, driver.home, method, form],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for form in ("whole", "difference", "difference")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    won = [int(n) for process in processes for n in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(won) == list(range(60))
    assert set(inside(driver, "dir")).isdisjoint(inside(driver, "differences"))
    assert leftovers(driver) == []


def test_layers_are_stacked_while_what_they_lie_on_goes(driver: Driver) -> None:
    """No removal breaks a stack, whenever a difference on the layer appears."""
    base = tree(driver.path("base"))
    failures: list[BaseException] = []
    stop = threading.Event()

    def pile_up() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    driver.create_difference(f"upon-{number}", "below")
                except LayerError:
                    continue  # it has just gone
                assert_same(base, tree(driver.path(f"upon-{number}")))
                driver.remove(f"upon-{number}")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=pile_up)
    thread.start()
    for _ in range(15):
        driver.create_difference("below", "base")
        driver.remove("below")
    stop.set()
    thread.join()
    assert failures == []
    assert inside(driver, "differences", "children") == []


def test_the_tree_has_no_whiteouts_of_a_container_on_it(driver: Driver) -> None:
    stacked(driver)
    driver.create("box", "top")
    devices = [
        path for path in Path(driver.path("box")).rglob("*") if stat.S_ISCHR(path.lstat().st_mode)
    ]
    assert devices == []


def test_what_lies_on_nothing_is_the_tree_that_it_is_on_an_empty_layer(driver: Driver) -> None:
    driver.create("empty")
    driver.create_difference("on", "empty")
    driver.create_difference("late", None)
    for id in ("on", "late"):
        upper = Path(driver.folder(id))
        with opened(str(upper)) as fd:
            marks = Marks(fd)
        (upper / "folder").mkdir()
        marks.set_opaque(os.fsencode(upper / "folder"))
        for name in ("file", "device"):
            path = upper / "folder" / name
            path.touch(0o640)
            os.utime(path, ns=(3, 5))
        os.setxattr(path.with_name("file"), "user.overlay.overlay.own", b"value")
        os.setxattr(path.with_name("file"), "user.overlay.overlay.overlay.own", b"other")
        marks.set_device(os.fsencode(path))
        os.mknod(upper / "folder/whiteout", WHITEOUT_MODE, 0)
        for path in (upper / "folder", upper):
            os.utime(path, ns=(3, 7))
    driver.rebase("late", None)
    driver.create("box", "on")
    assert_same(tree(driver.path("late")), tree(driver.path("box")))


_LIVES = """
import sys
from pathlib import Path
from reflayer.driver import Driver
from tests.driver.layers import inside, make, stacked, tree
from tests.trees import assert_same
driver = Driver(sys.argv[1] + "/home", method=sys.argv[2])
make(driver, "base")
stacked(driver)
assert driver.lower("top") == "middle"
driver.create("box", "top")
for id in ("box", "top"):
    assert_same(tree(driver.path("whole")), tree(driver.path(id)))
driver.create_difference("box-init", "top")
(Path(driver.path("box-init")) / "own").touch()
assert driver.take_over("taken", "box-init")
assert driver.lower("box-init") == "top"
for id in driver.list():
    driver.remove(id)
assert driver.list() == inside(driver, "dir", "differences", "children", "tmp") == []
"""


@pytest.mark.parametrize("kind", ["xfs", "ext4", "btrfs", "tmpfs"])
def test_another_user_than_root_keeps_differences_too(
    place_on: Callable[[str], Path], kind: str
) -> None:
    run_as(12345, _LIVES, place_on(kind), kept(kind))
