"""Containers of user namespaces: their files have the host's ids, all that is told of them images'.

What a mapped clone has to be is made by other programs: cp, chown, setfacl and setcap.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.driver.home import Making
from reflayer.driver.maps import mapped
from reflayer.driver.spares import key, making_of
from reflayer.errors import ArchiveError, CopyError, LayerError, OperationError
from reflayer.walk.id_map import IdMap
from tests.copy import hard_cases
from tests.driver.layers import change, kept, leftovers, put_to_rest, stacked, tree
from tests.driver.test_id_map import fill_as_many, owner
from tests.file_systems import require
from tests.trees import Facts, assert_same

MAP = IdMap.parse("u0:100000:65536,g0:300000:65536")
_CASES = (
    *("hard_links_across_folders", "hard_links_of_every_type", "hard_links_with_all_metadata"),
    *("symbolic_links", "sockets", "fifos", "devices", "setuid_setgid_and_sticky"),
    *("no_permission_bits", "capabilities_of_a_file_that_root_does_not_own", "small_files"),
    *("access_control_lists", "default_lists_that_nothing_inside_has", "times", "holes"),
    *("a_setgid_folder_that_gives_nothing_down", "times_of_folders_within_folders"),
)


@pytest.fixture(params=["xfs", "btrfs", "ext4", "tmpfs"])
def kind(request: pytest.FixtureRequest) -> str:
    """A file system."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def driver(kind: str, place_on: Callable[[str], Path]) -> Driver:
    """A driver with the layers ``base``, ``middle`` and ``top``, of which two are differences."""
    driver = Driver(place_on(kind) / "home", method=kept(kind))
    with driver.build("base") as path:
        fill_as_many(path)
        hard_cases.build(os.fsencode(path), {name: hard_cases.CASES[name] for name in _CASES})
    stacked(driver)
    return driver


def as_on_the_host(driver: Driver, id: str) -> Mapping[bytes, Facts]:
    """The facts of a copy of a layer by cp, whose ids other programs have changed."""
    require("getfacl", "setfacl", "getcap", "setcap")
    driver.create("plain", id)
    root = f"{driver.home}/expected"
    subprocess.run(["cp", "-a", driver.path("plain"), root], check=True)
    driver.remove("plain")
    text = subprocess.run(
        ["getfacl", "-nRp", "--physical", root], check=True, capture_output=True, text=True
    ).stdout
    able = subprocess.run(["getcap", "-r", root], check=True, capture_output=True, text=True).stdout
    done = set()
    for folder, folders, files in os.walk(root, topdown=False):
        for path in [*(os.path.join(folder, name) for name in (*files, *folders)), folder]:
            status = os.lstat(path)
            if status.st_ino not in done and (folder == path == root or path != root):
                done.add(status.st_ino)
                _give(path, status)
    text = re.sub(r"^# (owner|group):.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^(default:)?(user|group):(\d+):",
        lambda m: f"{m[1] or ''}{m[2]}:{int(m[3]) + (100_000 if m[2] == 'user' else 300_000)}:",
        text,
        flags=re.MULTILINE,
    )
    subprocess.run(["setfacl", "--restore=-"], input=text, check=True, text=True)
    for line in able.splitlines():
        path, _, capability = line.rpartition(" ")
        subprocess.run(["setcap", "-n", "100000", capability, path], check=True)
    found = tree(root)
    subprocess.run(["rm", "-r", root], check=True)
    return found


def _give(path: str, status: os.stat_result) -> None:
    uid, gid = status.st_uid + 100_000, status.st_gid + 300_000
    os.chown(path, uid, gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))  # chown takes setuid away
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


@pytest.mark.parametrize("id", ["base", "top"])
def test_a_mapped_clone_is_what_cp_and_chown_make(driver: Driver, id: str) -> None:
    driver.create("container", id, id_map=MAP)
    assert_same(tree(driver.path("container")), as_on_the_host(driver, id))
    assert list(driver.changes("container", id)) == []
    assert driver.id_map("container") == MAP


@pytest.mark.parametrize("method", ["range", "stream", "tar"])
def test_every_method_maps(place_on: Callable[[str], Path], method: str) -> None:
    driver = Driver(place_on("xfs") / "home", method=method)
    with driver.build("base") as path:
        fill_as_many(path)
    driver.create("container", "base", id_map=MAP)
    assert_same(tree(driver.path("container")), as_on_the_host(driver, "base"))
    assert list(driver.changes("container", "base")) == []


def test_a_snapshot_would_have_the_owners_of_the_image(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("btrfs") / "home", method="snapshot")
    with driver.build("base") as path:
        fill_as_many(path)
    with pytest.raises(CopyError, match="its owners are mapped: use another method or auto"):
        driver.create("container", "base", id_map=MAP)
    assert driver.list() == ["base"]
    auto = Driver(driver.home)
    report = auto.create("container", "base", id_map=MAP)
    assert report is not None
    assert report.method == "reflink"


def test_a_changed_container_is_told_packed_and_kept_with_the_ids_of_the_image(
    driver: Driver,
) -> None:
    driver.create("container", "base", id_map=MAP)
    driver.create("plain", "base")
    for id, uid, gid in (("container", 100_007, 300_009), ("plain", 7, 9)):
        root = Path(driver.path(id))
        change(root)
        for name in ("added", "added/below", "added/below/file", "link"):
            os.chown(root / name, uid, gid)
            os.utime(root / name, (8, 9))
        os.utime(root, (8, 9))
    changes = list(driver.changes("plain", "base"))
    assert ("A", "/added/below/file") in changes
    assert list(driver.changes("container", "base")) == changes
    with driver.diff("container", "base") as ours, driver.diff("plain", "base") as plain:
        assert ours.read() == plain.read()
    with driver.changing("container"), driver.checkpoint("container", "kept") as made:
        assert made.layer == "kept"
    driver.create("fork", "kept")
    assert_same(tree(driver.path("fork")), tree(driver.path("plain")))
    assert list(driver.changes("container", "kept")) == []


def test_a_rollback_has_the_ids_of_the_host(driver: Driver) -> None:
    driver.create("container", "top", id_map=MAP)
    before = tree(driver.path("container"))
    root = Path(driver.path("container"))
    (root / "added/new").write_text("new")
    os.chown(root / "added/new", 100_005, 300_006)
    (root / "folder/second").unlink()
    subprocess.run(["rm", "-r", root / "access_control_lists"], check=True)
    with driver.changing("container"), driver.checkpoint("container", "kept"):
        pass
    after = tree(driver.path("container"))
    with driver.changing("container"):
        driver.rollback("container", "top")
        assert_same(tree(driver.path("container")), before)
        driver.rollback("container", "kept")
        assert_same(tree(driver.path("container")), after)
    driver.create("fork", "kept", id_map=MAP)
    assert_same(tree(driver.path("fork")), after)


def test_spares_are_for_one_map_alone(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("xfs") / "home")
    with driver.build("base") as path:
        fill_as_many(path)
    driver.keep_spares("base", 1, wait=True)
    report = driver.create("container", "base", id_map=MAP)
    assert report is not None
    assert report.method == "reflink"
    assert owner(driver.path("container")) == MAP.root
    report = driver.create("plain", "base")
    assert report is not None
    assert report.method == "spare"
    assert owner(driver.path("plain")) == (0, 0)
    put_to_rest(Path(driver.home))


@pytest.mark.usefixtures("undisturbed")
def test_a_mapped_container_is_recycled_for_the_same_map(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("xfs") / "home")
    with driver.build("base") as path:
        fill_as_many(path)
    time.sleep(0.05)  # the clock that stamps inodes stands still for less
    driver.create("container", "base", id_map=MAP)
    before = tree(driver.path("container"))
    Path(driver.path("container"), "new").write_text("new")
    assert driver.remove("container", recycle=True) == ""
    assert driver.id_map("container") is None
    other = IdMap.parse("0:100000:65536")
    for id, id_map in (("x", None), ("y", other), ("z", MAP)):
        report = driver.create(id, "base", id_map=id_map)
        assert report is not None
        assert report.method == ("spare" if id_map is MAP else "reflink")
    assert_same(tree(driver.path("z")), before)
    assert list(driver.changes("z", "base")) == []
    assert driver.id_map("z") == MAP
    put_to_rest(Path(driver.home))


def test_a_key_tells_how_one_has_to_be_made() -> None:
    for id_map in (None, MAP, IdMap.parse("0:5:1")):
        making = mapped(Making("auto", "keep", 1, None), id_map)
        told = key(making)
        assert told is not None
        assert making_of(told) == making


def test_an_id_that_the_map_lacks_is_an_error_that_names_the_file(driver: Driver) -> None:
    path = Path(driver.path("base"), "cat")
    small = IdMap.parse("0:100000:50")
    with pytest.raises(CopyError, match=r"map its owners: Container ID \d+ cannot be mapped"):
        driver.create("container", "base", id_map=small)
    assert "container" not in driver.list()
    assert leftovers(driver) == []
    assert driver.id_map("container") is None
    os.chown(path, 70_000, 0)
    with pytest.raises(CopyError, match=r"map its owners: Container ID 70000 cannot") as error:
        driver.create("container", "base", id_map=MAP)
    assert error.value.path == str(path)


def test_what_the_host_left_in_it_cannot_be_in_an_image(driver: Driver) -> None:
    driver.create("container", "base", id_map=MAP)
    Path(driver.path("container"), "of the host").touch()
    assert ("A", "/of the host") in list(driver.changes("container", "base"))
    with (
        driver.diff("container", "base") as stream,
        pytest.raises(ArchiveError, match="of the host: Host ID 0 cannot be mapped"),
    ):
        stream.read()
    with (
        pytest.raises(OperationError, match="of the host: map its owners: Host ID 0 cannot"),
        driver.changing("container"),
        driver.checkpoint("container", "kept"),
    ):
        pass
    assert not driver.exists("kept")


def test_the_map_goes_with_the_container(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("xfs") / "home")
    with pytest.raises(ArchiveError, match="Container ID 0 cannot be mapped"):
        driver.create("container", id_map=IdMap.parse("1:100000:65536"))
    driver.create("container", id_map=MAP)
    assert owner(driver.path("container")) == MAP.root
    assert Driver(driver.home).id_map("container") == MAP
    driver.create("clone", "container")
    assert owner(driver.path("clone")) == (0, 0)
    driver.create("same", "container", id_map=MAP)
    assert owner(driver.path("same")) == MAP.root
    assert list(driver.changes("same", "container")) == []
    with pytest.raises(LayerError, match="has a user namespace of its own"):
        driver.create("other", "container", id_map=IdMap.parse("0:7:1"))
    driver.remove("container")
    os.symlink("0:7:1", f"{driver.home}/maps/container")
    driver.create("container")
    assert driver.id_map("container") is None
    driver.remove("container")
    os.symlink("0:7:1", f"{driver.home}/maps/lost")
    assert Driver(driver.home).id_map("lost") is None
    driver.create("container")
    assert driver.id_map("container") is None
    with driver.diff("same") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        assert [(m.uid, m.gid) for m in tar] == [(0, 0)]
