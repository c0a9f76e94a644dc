"""Recycling: a container is a spare again, the same as a fresh clone, or it is deleted as ever."""

from __future__ import annotations

import array
import ctypes
import itertools
import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, given, settings

from reflayer.archive import IdMap, IdRange
from reflayer.copy import remove_tree
from reflayer.driver import Driver, clone_times, home
from reflayer.driver.clone_times import note_path
from reflayer.driver.room import set_keep_free
from reflayer.errors import OperationError
from tests.archive.test_random_changes import EDITS, Edit, edit
from tests.archive.test_undo import CHANGES, TOOLS
from tests.copy import hard_cases
from tests.driver.layers import (
    archive_of,
    kept,
    leftovers,
    make,
    run_as,
    stacked,
    wait_until,
)
from tests.driver.test_spares import counts, created, filled, folder, nobody_fills
from tests.file_systems import require, require_root
from tests.random_trees import TREES, Tree, make_tree
from tests.trees import Facts, assert_same, facts

pytestmark = pytest.mark.usefixtures("undisturbed")  # it looks at all processes of the machine

KINDS = ["xfs", "ext4", "btrfs"]
_MAP = IdMap((IdRange(0, 1000, 10),), (IdRange(0, 1000, 10),))
_TICK = 0.02  # seconds: the clock that stamps inodes stands still for less
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _waits_for_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the end of a small clone be told from all it did, as that of a large one is."""
    monkeypatch.setattr(clone_times, "_MUCH", 0)


@pytest.fixture(params=KINDS)
def driver(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Driver:
    """A driver with the layer ``base``, and two differences on that."""
    driver = Driver(place_on(request.param) / "home", method=kept(request.param))
    set_keep_free(driver.home, 0)  # what other tests have deleted may take a while to be free
    make(driver, "base")
    stacked(driver)
    time.sleep(_TICK)
    return driver


def change(root: Path) -> None:
    """Change the layer ``top``."""
    (root / "added/new").write_text("new")
    (root / "link").mkdir()
    (root / "folder/file").chmod(0o755)
    (root / "second name").unlink()
    (root / "added/below").rename(root / "moved")
    os.setxattr(root / "folder", "user.own", b"1")


def told(driver: Driver, id: str) -> Mapping[bytes, Facts]:
    return facts(Path(driver.path(id)), atime=False, holes=True)


def recycled(driver: Driver, id: str, parent: str, new: str) -> None:
    """Remove layer ``id``, and have it again as ``new``."""
    inode = os.stat(driver.path(id)).st_ino
    assert driver.remove(id, recycle=True) == ""
    assert not driver.exists(id)
    assert leftovers(driver) == []
    assert created(driver, new, parent) == "spare"
    assert os.stat(driver.path(new)).st_ino == inode
    assert list(driver.changes(new, parent)) == []


def deleted(driver: Driver, id: str, reason: str) -> None:
    """It is removed, and no spare of it."""
    before = counts(driver)
    assert reason in driver.remove(id, recycle=True)
    assert not driver.exists(id)
    assert counts(driver) == before
    assert leftovers(driver) == []


@contextmanager
def running(command: list[str], folder: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a folder, killed after the block."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("case", CHANGES)
def test_it_is_again_what_a_fresh_clone_is(driver: Driver, case: str) -> None:
    if "out" in CHANGES[case] and "c.parent" in CHANGES[case] and driver._making.method != "auto":
        pytest.skip("nothing is moved or linked out of a subvolume")
    with driver.build("lower") as path:
        _fill(Path(path))
    driver.create_difference("upper", "lower")
    driver.apply("upper", archive_of(driver, "lower", _more))
    time.sleep(_TICK)
    driver.create("fresh", "upper")
    driver.create("box", "upper")
    assert_same(told(driver, "fresh"), told(driver, "box"))
    exec(dedent(CHANGES[case]), {"c": Path(driver.path("box")), **TOOLS})
    recycled(driver, "box", "upper", "again")
    assert_same(told(driver, "fresh"), told(driver, "again"))
    for name in ("out", "outside"):
        subprocess.run(["rm", "-rf", f"{driver.home}/dir/{name}"], check=True)


def _fill(tree: Path) -> None:
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "other/b").mkdir(parents=True)
    for name in ("a/file", "a/b/file", "a/b/c/file", "other/file", "other/b/file", "top", "gone"):
        (tree / name).write_text(f"content of {name}")
    os.link(tree / "a/b/file", tree / "other/twin")
    os.link(tree / "a/b/file", tree / "twin")
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "a/fifo")
    os.mknod(tree / "a/device", 0o20640, os.makedev(1, 3))
    with open(tree / "a/holes", "wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"x", 1 << 19)
    os.setxattr(tree / "a/file", "user.name", b"value")
    os.setxattr(tree / "a", hard_cases.DEFAULT, hard_cases.SOME_ACL)
    os.chown(tree / "other", 5, 6)
    (tree / "other").chmod(0o2775)


def _more(tree: Path) -> None:
    (tree / "gone").unlink()
    (tree / "a/file").chmod(0o600)
    (tree / "a/b/added").write_text("of the difference")
    os.link(tree / "a/b/added", tree / "other/b/added")
    os.chown(tree / "other/b", 7, 7)


def test_it_is_so_however_often(driver: Driver) -> None:
    driver.create("fresh", "top")
    driver.create("box-0", "top")
    for turn in range(5):
        root = Path(driver.path(f"box-{turn}"))
        change(root)
        (root / "folder").rename(root / "moved")
        (root / "folder").mkdir()
        (root / "moved/file").rename(root / "folder/file")
        recycled(driver, f"box-{turn}", "top", f"box-{turn + 1}")
        assert_same(told(driver, "fresh"), told(driver, f"box-{turn + 1}"))


def test_all_folders_of_a_clone_are_known(driver: Driver) -> None:
    driver.create("box", "top")
    root = Path(driver.path("box"))
    clone = clone_times.first_clone(note_path(driver.home, "box"), str(root))
    assert clone is not None
    below = [path for path in root.rglob("*") if not path.is_symlink() and path.is_dir()]
    assert sorted(clone.folders[1::2]) == sorted(path.stat().st_ino for path in below)


def test_the_hard_cases_come_back(driver: Driver, request: pytest.FixtureRequest) -> None:
    cases = dict(hard_cases.CASES)
    if "xfs" not in request.node.name:
        del cases["a_tebibyte_of_nothing"]
    with driver.build("hard") as path:
        hard_cases.build(os.fsencode(path), cases)
    time.sleep(_TICK)
    driver.create("fresh", "hard")
    driver.create("box", "hard")
    for number, case in enumerate(sorted(Path(driver.path("box")).iterdir())):
        if number % 3 == 0:
            subprocess.run(["rm", "-rf", case], check=True)
        elif number % 3 == 1:
            case.rename(case.with_name(f"{case.name}-moved"))
    recycled(driver, "box", "hard", "again")
    assert_same(told(driver, "fresh"), told(driver, "again"))


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_are_undone(file_system: Callable[[str], Path], kind: str) -> None:
    require_root()
    place = file_system(kind)

    @settings(
        max_examples=20, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(TREES, EDITS, EDITS)
    def try_it(tree: Tree, edits: list[Edit], others: list[Edit]) -> None:
        here = place / f"recycle-{next(_numbers)}"
        driver = Driver(here, method=kept(kind))
        try:
            with driver.build("base") as path:
                make_tree(os.fsencode(path), tree, [])
            time.sleep(_TICK)
            driver.create("fresh", "base")
            driver.create("box-0", "base")
            for turn, some in enumerate((edits, others)):
                for one in some:
                    edit(os.fsencode(driver.path(f"box-{turn}")), *one)
                recycled(driver, f"box-{turn}", "base", f"box-{turn + 1}")
                assert_same(told(driver, "fresh"), told(driver, f"box-{turn + 1}"))
        finally:
            remove_tree(here)

    try_it()


def test_what_engines_fill_a_container_with_is_undone_to_the_image(driver: Driver) -> None:
    """Docker makes ``ID-init`` on the image, fills it, and makes ``ID`` of that."""
    driver.create("fresh", "top")
    driver.create_difference("box-init", "top")
    root = Path(driver.get("box-init"))
    (root / "dev").mkdir()
    (root / "folder").chmod(0o700)
    driver.put("box-init")
    assert driver.take_over("box", "box-init")
    (Path(driver.path("box")) / "new").touch()
    recycled(driver, "box", "top", "again")
    driver.remove("box-init")
    assert_same(told(driver, "fresh"), told(driver, "again"))


def test_one_whose_root_was_changed_before_it_had_a_tree_is_none(driver: Driver) -> None:
    if not driver.keeps_differences:
        pytest.skip("layers are whole here")
    driver.create_difference("box", "top")
    os.chmod(driver.folder("box"), 0o711)
    driver.path("box")
    deleted(driver, "box", "it is not known what it was cloned from")


def test_what_waits_to_be_written_to_a_mapped_file_is_undone(driver: Driver) -> None:
    driver.create("fresh", "top")
    driver.create("box", "top")
    with open(f"{driver.path('box')}/folder/file", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    before = os.stat(f"{driver.path('box')}/folder/file")
    mapped[:4] = b"\0\1\2\3"
    mapped.close()
    os.utime(f"{driver.path('box')}/folder/file", ns=(before.st_atime_ns, before.st_mtime_ns))
    recycled(driver, "box", "top", "again")
    assert_same(told(driver, "fresh"), told(driver, "again"))


def test_where_a_process_still_has_a_file_it_is_deleted(driver: Driver) -> None:
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND)):
        driver.create(f"box-{number}", "top")
        fd = os.open(f"{driver.path(f'box-{number}')}/folder/file", flags)
        deleted(driver, f"box-{number}", "a process has it open")
        os.close(fd)
    driver.create("box", "top")
    with open(f"{driver.path('box')}/folder/file", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    deleted(driver, "box", "a process has it open")
    mapped.close()


def test_what_a_process_writes_to_a_file_that_is_made_anew_is_seen_by_nobody(
    driver: Driver,
) -> None:
    driver.create("fresh", "top")
    driver.create("box", "top")
    with open(f"{driver.path('box')}/folder/file", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
        mapped[0] = 1
        recycled(driver, "box", "top", "again")
        mapped[1] = 1
        file.write(b"more")
    assert_same(told(driver, "fresh"), told(driver, "again"))


def test_where_a_process_still_is_in_a_folder_it_is_deleted(driver: Driver) -> None:
    driver.create("box", "top")
    path = f"{driver.path('box')}/folder"
    with running(["sleep", "100"], path):
        deleted(driver, "box", "a process has it open")
    driver.create("box", "top")
    fd = os.open(path, os.O_PATH)
    deleted(driver, "box", "a process has it open")
    os.close(fd)


def test_where_a_process_has_a_file_that_it_can_open_it_is_deleted(driver: Driver) -> None:
    driver.create("box", "top")
    fd = os.open(f"{driver.path('box')}/folder/file", os.O_PATH)
    deleted(driver, "box", "it cannot be told whether a process still has it")
    os.close(fd)


@pytest.mark.usefixtures("alone")
def test_where_a_process_watches_a_folder_of_it_it_is_deleted(driver: Driver) -> None:
    if "btrfs" in driver.home:
        pytest.skip("what is watched there has no device that is known")
    libc = ctypes.CDLL(None, use_errno=True)
    driver.create("box", "top")
    watch = libc.inotify_init1(0)
    try:
        path = f"{driver.path('box')}/folder".encode()
        assert libc.inotify_add_watch(watch, path, 0x100) > 0  # IN_CREATE
        deleted(driver, "box", "a process has it open")
    finally:
        os.close(watch)


@pytest.mark.usefixtures("alone")
def test_where_a_folder_is_on_its_way_to_a_process_it_is_deleted(driver: Driver) -> None:
    driver.create("box", "top")
    one, other = socket.socketpair()
    with one, other:
        fd = os.open(f"{driver.path('box')}/folder", os.O_RDONLY)
        one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
        deleted(driver, "box", "it cannot be told whether a process still has it")


def test_where_a_clock_was_set_it_is_deleted(driver: Driver) -> None:
    for difference in (3_600_000_000_000, -1_000_000):
        driver.create("box", "top")
        note = Path(note_path(driver.home, "box"))
        first, _, rest = note.read_text().partition("\n")
        inode, birth, cloned, offset, parent = first.split(" ")
        of_then = f"{inode} {birth} {cloned} {int(offset) + difference} {parent}\n{rest}"
        note.write_text(of_then)
        deleted(driver, "box", "it is not known what it was cloned from, or the clock was set")


def test_the_note_of_another_folder_is_none(driver: Driver) -> None:
    driver.create("box", "top")
    driver.create("other", "top")
    os.rename(note_path(driver.home, "other"), note_path(driver.home, "box"))
    deleted(driver, "box", "it is not known what it was cloned from")
    deleted(driver, "other", "it is not known what it was cloned from")


def test_what_is_mounted_in_it_is_an_error_as_ever(driver: Driver) -> None:
    require_root()
    driver.create("box", "top")
    path = f"{driver.path('box')}/folder"
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    try:
        with pytest.raises(OperationError):
            driver.remove("box", recycle=True)
        assert driver.exists("box")
    finally:
        subprocess.run(["umount", path], check=True)
    assert driver.remove("box", recycle=True) == ""


@pytest.mark.parametrize(
    "mount",
    [
        "mount -t tmpfs none {path}/folder",
        "mount --bind {path}/folder /mnt",
        "mount -t overlay none -o lowerdir={path}:/usr /mnt",
    ],
)
def test_what_other_mount_namespaces_have_of_it_keeps_it(driver: Driver, mount: str) -> None:
    require_root()
    driver.create("box", "top")
    script = f"{mount.format(path=driver.path('box'))} && echo mounted && exec sleep 100"
    with running(["unshare", "--mount", "sh", "-c", script], "/") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        assert driver.remove("box", recycle=True) == (
            "it cannot be told whether a process still has it"
        )
    assert counts(driver) == {}


@pytest.mark.usefixtures("alone")
def test_a_mount_namespace_that_no_process_has_keeps_it(driver: Driver, tmp_path: Path) -> None:
    require_root()
    driver.create("box", "top")
    (tmp_path / "kept").mkdir()
    name = tmp_path / "kept/namespace"
    name.touch()
    keep = f"mount --bind {tmp_path}/kept {tmp_path}/kept && mount --make-private {tmp_path}/kept"
    subprocess.run(["sh", "-c", keep], check=True)
    try:
        mount = ["mount", "--bind", f"{driver.path('box')}/folder", "/mnt"]
        subprocess.run(["unshare", f"--mount={name}", *mount], check=True)
        deleted(driver, "box", "it cannot be told whether a process still has it")
    finally:
        subprocess.run(["umount", name], check=False)
        subprocess.run(["umount", f"{tmp_path}/kept"], check=True)


_CHROOT = """
import ctypes, os, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(int(sys.argv[2])) == 0
if sys.argv[3:]:
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "--bind", *sys.argv[3:]], check=True)
if sys.argv[1].endswith("detached"):
    subprocess.run(["mount", "-t", "tmpfs", "none", sys.argv[1]], check=True)
os.chdir(sys.argv[1])
if sys.argv[1].endswith("detached"):
    subprocess.run(["umount", "--lazy", sys.argv[1]], check=True)
os.chroot(".")
print("ready", flush=True)
time.sleep(100)
"""
_NEW_MOUNTS = "131072"  # CLONE_NEWNS


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("root", ["attached", "detached"])
def test_mounts_that_a_process_below_its_root_does_not_see_keep_it(
    driver: Driver, tmp_path: Path, root: str
) -> None:
    """Whoever is allowed to can enter them by that process's mount namespace."""
    require_root()
    driver.create("box", "top")
    (tmp_path / root).mkdir()
    mount = [f"{driver.path('box')}/folder", "/mnt"]
    command = [sys.executable, "-c", _CHROOT, f"{tmp_path}/{root}", _NEW_MOUNTS, *mount]
    with running(command, "/") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deleted(driver, "box", "it cannot be told whether a process still has it")


_DETACHED = """
import ctypes, os, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
above, path = sys.argv[1:]
assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", above], check=True)
os.mkdir(f"{above}/below")
subprocess.run(["mount", "--bind", path, f"{above}/below"], check=True)
number, flags = 428, 0x1 | 0x8000  # open_tree(2): OPEN_TREE_CLONE, AT_RECURSIVE
tree = libc.syscall(number, -100, above.encode(), flags)
assert tree >= 0
subprocess.run(["umount", f"{above}/below", above], check=True)
print("ready" if os.access("below/folder", os.F_OK, dir_fd=tree) else "", flush=True)
time.sleep(100)
"""


@pytest.mark.usefixtures("alone")
def test_a_mount_below_one_that_is_in_no_namespace_keeps_it(driver: Driver, tmp_path: Path) -> None:
    require_root()
    driver.create("box", "top")
    command = [sys.executable, "-c", _DETACHED, str(tmp_path), driver.path("box")]
    with running(command, "/") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deleted(driver, "box", "it cannot be told whether a process still has it")


@pytest.mark.usefixtures("alone")
def test_processes_below_their_roots_hide_no_mounts_of_others(
    driver: Driver, tmp_path: Path
) -> None:
    require_root()
    driver.create("box", "top")
    driver.create("other", "top")
    names = [tmp_path / f"root{number}" for number in range(50)]
    with ExitStack() as stack:
        for name in names:
            name.mkdir()
            command = [sys.executable, "-c", _CHROOT, str(name), "0"]
            process = stack.enter_context(running(command, "/"))
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        assert driver.remove("other", recycle=True) == ""
        subprocess.run(["mount", "--bind", f"{driver.path('box')}/folder", "/mnt"], check=True)
        try:
            deleted(driver, "box", "it cannot be told whether a process still has it")
        finally:
            subprocess.run(["umount", "/mnt"], check=True)


def test_who_cannot_see_all_processes_deletes_it(driver: Driver) -> None:
    require("unshare")
    driver.create("box", "top")
    code = (
        "import sys; from reflayer.driver import Driver;"
        "print(Driver(sys.argv[1], method=sys.argv[2]).remove('box', recycle=True))"
    )
    hide = ["unshare", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run(
        [*hide, sys.executable, "-c", code, driver.home, driver._making.method],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "it cannot be told whether a process still has it" in done.stdout
    assert counts(driver) == {}


def test_where_processes_begin_without_end_it_is_deleted(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, numbers = os.listdir, itertools.count(1 << 30)

    def with_a_new_one(path: str) -> list[str]:
        return [*listed(path), str(next(numbers))] if path == "/proc" else listed(path)

    driver.create("box", "base")
    monkeypatch.setattr(os, "listdir", with_a_new_one)
    deleted(driver, "box", "it cannot be told whether a process still has it")


def test_an_ordinary_user_deletes_it(place_on: Callable[[str], Path]) -> None:
    told = run_as(
        1234,
        """
import os, sys, time
from reflayer.driver import Driver
driver = Driver(sys.argv[1] + "/home", ownership="ignore")
driver.create("base")
time.sleep(0.02)
driver.create("box", "base")
print(driver.remove("box", recycle=True))
assert not driver.exists("box")
""",
        place_on("xfs"),
    )
    assert told == "it cannot be told whether a process still has it\n"


def test_of_another_making_or_with_a_size_it_is_deleted(driver: Driver) -> None:
    driver.create("box", "top")
    other = Driver(driver.home, method="stream")
    deleted(other, "box", "it was made with other settings")
    driver.create("box", "top")
    other = Driver(driver.home, method=driver._making.method, id_map=_MAP)
    deleted(other, "box", "it was made with other settings")


def test_what_is_labelled_is_deleted(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(home, "_SELINUX", str(tmp_path))
    driver.create("box", "top", mount_label="a:b:c:s0")
    deleted(driver, "box", "has an SELinux label")


def test_where_its_layers_have_changed_or_times_do_not_tell_it_is_deleted(driver: Driver) -> None:
    driver.create("box", "top")
    driver.apply("top", archive_of(driver, "whole", lambda root: (root / "again").touch()))
    driver.empty_trash()
    deleted(driver, "box", "its image has changed")


def test_on_tmpfs_it_is_deleted(place_on: Callable[[str], Path]) -> None:
    driver = Driver(place_on("tmpfs"))
    make(driver, "base")
    time.sleep(_TICK)
    driver.create("box", "base")
    deleted(driver, "box", "times do not tell here what changed")


def test_where_the_disk_is_short_it_is_deleted(driver: Driver) -> None:
    driver.create("box", "top")
    set_keep_free(driver.home, 101)
    deleted(driver, "box", "little of the disk is free")


def test_no_more_are_kept_than_are_wanted(driver: Driver) -> None:
    for number in range(2):
        driver.create(f"box-{number}", "top")
    driver.keep_spares("top", 1)
    wait_until(lambda: counts(driver) == {"top": (1, 1)})
    filled(driver)
    deleted(driver, "box-0", "no more spares are wanted")
    driver.keep_spares("top", 2)
    with nobody_fills(driver):
        pass
    driver.keep_spares("top", 0)
    filled(driver)
    assert driver.remove("box-1", recycle=True) == ""
    assert counts(driver) == {"top": (0, 1)}


def test_what_lies_on_it_becomes_whole_first(driver: Driver) -> None:
    if not driver.keeps_differences:
        pytest.skip("layers are whole here")
    driver.create("box", "top")
    change(Path(driver.path("box")))
    driver.create_difference("child", "box")
    driver.sync("child")
    before = told(driver, "box")
    assert driver.remove("box", recycle=True) == ""
    assert_same(before, told(driver, "child"))
    assert counts(driver) == {"top": (0, 1)}


def test_behind_it_is_done_by_what_makes_spares_where_one_is_missing(driver: Driver) -> None:
    driver.create("fresh", "top")
    for number in range(3):
        driver.create(f"box-{number}", "top")
        change(Path(driver.path(f"box-{number}")))
    inodes = {os.stat(driver.path(f"box-{number}")).st_ino for number in range(3)}
    assert driver.remove("box-0", wait=False, recycle=True) == "no more spares are wanted"
    with nobody_fills(driver):
        driver.keep_spares("top", 2)
        for number in (1, 2):
            assert driver.remove(f"box-{number}", wait=False, recycle=True) == ""
        assert counts(driver) == {"top": (2, 0)}
        assert set(driver.list()) == {"base", "middle", "top", "whole", "fresh"}
    driver.keep_spares("top", 2)
    wait_until(lambda: counts(driver) == {"top": (2, 2)})
    filled(driver)
    for number in range(2):
        with nobody_fills(driver):
            assert created(driver, f"again-{number}", "top") == "spare"
        assert os.stat(driver.path(f"again-{number}")).st_ino in inodes
        assert_same(told(driver, "fresh"), told(driver, f"again-{number}"))
        assert list(driver.changes(f"again-{number}", "top")) == []
    driver.keep_spares("top", 0)
    filled(driver)
    assert leftovers(driver) == []


def test_what_waits_goes_where_it_cannot_be_one_or_is_not_wanted(driver: Driver) -> None:
    for number in range(3):
        driver.create(f"box-{number}", "top")
    with nobody_fills(driver):
        driver.keep_spares("top", 3)
        for number in range(3):
            assert driver.remove(f"box-{number}", wait=False, recycle=True) == ""
        waiting = sorted(folder(driver, "top").glob("*.used"))
        fd = os.open(waiting[0] / "folder/file", os.O_RDONLY)
        Path(f"{waiting[1]}.cloned").unlink()
    inodes = [os.stat(path).st_ino for path in waiting]
    driver.keep_spares("top", 3)
    wait_until(lambda: counts(driver) == {"top": (3, 3)})
    filled(driver)
    os.close(fd)
    there = {os.stat(one).st_ino for one in folder(driver, "top").iterdir() if one.is_dir()}
    assert inodes[2] in there
    assert leftovers(driver) == []
    driver.keep_spares("top", 2)
    driver.create("box", "top")
    driver.create("last", "top")
    wait_until(lambda: counts(driver) == {"top": (2, 2)})
    with nobody_fills(driver):
        driver.keep_spares("top", 3)
        assert driver.remove("box", wait=False, recycle=True) == ""
        assert driver.remove("last", wait=False, recycle=True) == "no more spares are wanted"
        driver.keep_spares("top", 2)
        Driver(driver.home, method=driver._making.method)
        assert [*folder(driver, "top").glob("*.used*")] == []


_DIE = """
import os, sys
from reflayer.driver import Driver, home, spares
from reflayer.driver.fill import fill
from reflayer.workers.lock import open_locked
driver = Driver(sys.argv[1], method=sys.argv[2])
left = int(sys.argv[3])
def dying(call):
    def step(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*arguments, **named)
    return step
for name in ("rename", "unlink", "mkdir", "open", "utime", "chmod"):
    setattr(os, name, dying(getattr(os, name)))
if sys.argv[4] == "here":
    print(driver.remove("box", recycle=True))
else:
    turn = open_locked(driver.home + "/spares.lock")
    driver.remove("box", wait=False, recycle=True)
    fill(driver.home, turn)
"""


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
@pytest.mark.parametrize("where", ["here", "behind"])
def test_killed_at_any_step_it_leaves_a_spare_that_is_right_or_none(
    place_on: Callable[[str], Path], kind: str, where: str
) -> None:
    driver = Driver(place_on(kind))
    make(driver, "base")
    stacked(driver)
    time.sleep(_TICK)
    driver.create("fresh", "top")
    expected = told(driver, "fresh")
    is_done, ended = False, 0
    for step in itertools.chain(range(40), itertools.count(40, 7)):
        if not driver.exists("box"):
            driver.create("box", "top")
        change(Path(driver.path("box")))
        changed = told(driver, "box")
        if where == "behind":
            with nobody_fills(driver):
                driver.keep_spares("top", 1)
        command = [sys.executable, "-c", _DIE, driver.home, driver._making.method]
        done = subprocess.run([*command, str(step), where], check=False, capture_output=True)
        assert done.returncode in (0, 9), done.stderr
        is_done = done.returncode == 0
        ended += done.returncode == 9
        with nobody_fills(driver):
            Driver(driver.home, method=driver._making.method).empty_trash()
            assert leftovers(driver) == []
            if driver.exists("box"):
                assert_same(changed, told(driver, "box"))
                subprocess.run(["rm", "-rf", driver.path("box")], check=True)
                driver.remove("box")
            if counts(driver).get("top", (0, 0))[1]:
                assert created(driver, "again", "top") == "spare"
                assert_same(expected, told(driver, "again"))
                driver.remove("again")
            driver.keep_spares("top", 0)
        filled(driver)
        assert leftovers(driver) == []
        if is_done:
            break
    assert ended > 20
