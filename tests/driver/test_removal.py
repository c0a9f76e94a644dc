"""Removal answers at once and deletes behind; what is in the way is named."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.driver.home import opened
from reflayer.driver.trash import delete, delete_trash, empty_trash
from reflayer.errors import OperationError
from reflayer.workers import behind
from tests.driver.layers import leftovers, make, wait_until
from tests.file_systems import fill_up, mounted, require


def make_big(driver: Driver, id: str, names: int = 10_000) -> None:
    with driver.build(id) as path:
        for number in range(names):
            os.close(os.open(f"{path}/{number}", os.O_CREAT | os.O_WRONLY))


@contextmanager
def stopped_helper(driver: Driver, id: str) -> Iterator[int]:
    """Remove ``id`` without waiting; the process that deletes it, stopped in the middle."""
    driver.remove(id, wait=False)
    pid = behind._started[-1]
    trash = Path(driver.home) / "trash"
    entry = next(trash.glob(f"{id}.*"))
    while True:
        wait_until(lambda: str(entry) in [str(p) for p in descriptors(pid)])
        os.kill(pid, signal.SIGSTOP)
        if is_locked(entry):
            break
        os.kill(pid, signal.SIGCONT)  # it has but looked at it
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def descriptors(pid: int) -> list[Path]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(fd.readlink())
        except FileNotFoundError:
            continue
    return found


def is_locked(folder: Path) -> bool:
    with opened(str(folder)) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def waits_for(pid: int, path: Path) -> bool:
    """Whether a process waits for a lock of this file (proc_locks(5))."""
    inode = path.stat().st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(
        line[1] == "->" and line[5] == str(pid) and line[6].endswith(f":{inode}") for line in lines
    )


@pytest.fixture
def ext4(place_on: Callable[[str], Path]) -> Path:
    return place_on("ext4")


def test_a_layer_is_deleted_behind_and_its_id_is_free_at_once(place: Path) -> None:
    driver = Driver(place / "home")
    make(driver, "base")
    driver.remove("base", wait=False)
    driver.create("base")
    assert os.listdir(driver.path("base")) == []
    wait_until(lambda: leftovers(driver) == [])


def test_the_deleting_belongs_to_nobody(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    make_big(driver, "big")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        with stopped_helper(driver, "big") as pid:
            assert os.getsid(pid) == pid
            assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
            standard = [Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in range(3)]
            assert standard == [Path("/dev/null")] * 3
            others = [p for p in descriptors(pid) if p not in standard]
            assert others
            assert not {*others} & {*descriptors(os.getpid())}, "what its starter has open"
    finally:
        os.close(reading)
        os.close(writing)
    wait_until(lambda: leftovers(driver) == [])


def test_the_deleting_goes_on_after_the_end_of_who_removed(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    make_big(driver, "big")
    code = (
        "import os, signal, sys; from reflayer.driver import Driver;"
        "Driver(sys.argv[1]).remove('big', wait=False); os.killpg(0, signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, driver.home]
    done = subprocess.run(command, check=False, start_new_session=True)
    assert done.returncode == -signal.SIGKILL
    assert driver.list() == []
    wait_until(lambda: leftovers(driver) == [])


@pytest.mark.parametrize("who", ["start", "remove"])
def test_what_a_killed_helper_left_is_deleted_by_the_next(ext4: Path, who: str) -> None:
    driver = Driver(ext4 / "home")
    make_big(driver, "big")
    driver.create("small")
    with stopped_helper(driver, "big") as pid:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in behind._started)
    assert leftovers(driver) != []
    if who == "start":
        Driver(driver.home)
    else:
        driver.remove("small")
    wait_until(lambda: leftovers(driver) == [])


def test_one_process_at_a_time_deletes_behind_and_misses_nothing(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    make_big(driver, "big")
    for number in range(5):
        driver.create(f"small-{number}")
    with stopped_helper(driver, "big") as pid:
        for number in range(5):
            driver.remove(f"small-{number}", wait=False)
        assert behind._started[-1] == pid
        assert len(leftovers(driver)) == 6
    wait_until(lambda: leftovers(driver) == [])


def test_one_process_is_started_however_many_remove_before_it_is_up(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    make_big(driver, "big")
    for number in range(5):
        driver.create(f"small-{number}")
    driver.remove("big", wait=False)
    pid = behind._started[-1]
    os.kill(pid, signal.SIGSTOP)  # its interpreter has hardly begun
    try:
        for number in range(5):
            driver.remove(f"small-{number}", wait=False)
        assert behind._started[-1] == pid
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: leftovers(driver) == [])


@pytest.mark.parametrize("wait_for", ["layer", "all"])
def test_who_waits_does_not_wait_for_who_steps_back(ext4: Path, wait_for: str) -> None:
    driver = Driver(ext4 / "home")
    for id in ("big", "other"):
        make_big(driver, id)
    with stopped_helper(driver, "big"):
        (trash,) = (ext4 / "home/trash").iterdir()
        delete_trash(str(trash), wait=False)
        assert trash.exists()
        if wait_for == "layer":
            driver.remove("other")
            assert leftovers(driver) == [trash.name]
            delete_trash(str(trash))
        else:
            driver.remove("other", wait=False)
            driver.empty_trash()
        assert leftovers(driver) == []
    wait_until(lambda: behind._started == [])


def test_who_steps_back_waits_for_who_waits(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    driver.create("one")
    with opened(f"{driver.home}/trash") as folder:
        fcntl.flock(folder, fcntl.LOCK_SH)  # as who waits
        driver.remove("one", wait=False)
        pid = behind._started[-1]
        wait_until(lambda: waits_for(pid, ext4 / "home/trash"))
        driver.create("another")
        driver.remove("another", wait=False)
        assert len(leftovers(driver)) == 2
        driver.empty_trash()  # beside the first one
        assert leftovers(driver) == []
    wait_until(lambda: pid not in behind._started)


def test_two_who_delete_the_same_tree_do_not_stumble(place: Path) -> None:
    tree = place / "tree"
    for number in range(60):
        (tree / f"{number}/below").mkdir(parents=True)
        for name in "abcdefgh":
            (tree / f"{number}/{name}").touch()
            (tree / f"{number}/below/{name}").touch()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            delete(str(tree))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not tree.exists()


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_an_immutable_file_is_named_and_the_layer_is_gone(
    place_on: Callable[[str], Path], kind: str
) -> None:
    require("chattr")
    driver = Driver(place_on(kind) / "home")
    path = make(driver, "base")
    (Path(path) / "folder/stays").touch()
    subprocess.run(["chattr", "+i", f"{path}/folder/stays"], check=True)
    with pytest.raises(OperationError, match=r"trash/base\..*/folder/stays: .*immutable"):
        driver.remove("base")
    assert driver.list() == []
    (left,) = (Path(driver.home) / "trash").iterdir()
    subprocess.run(["chattr", "-i", left / "folder/stays"], check=True)
    Driver(driver.home)
    wait_until(lambda: leftovers(driver) == [])


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_layer_that_something_is_mounted_in_stays_whole(
    place_on: Callable[[str], Path], kind: str, wait: bool, tmp_path: Path
) -> None:
    driver = Driver(place_on(kind) / "home")
    mount = Path(make(driver, "base")) / "folder/mounted"
    (tmp_path / "precious").write_bytes(b"not the layer's")
    mount.mkdir()
    subprocess.run(["mount", "--bind", tmp_path, mount], check=True)
    try:
        with pytest.raises(OperationError, match=r"dir/base/folder/mounted: .*: unmount it"):
            driver.remove("base", wait=wait)
        assert (mount / "precious").read_bytes() == b"not the layer's"
    finally:
        subprocess.run(["umount", mount], check=True)
    assert driver.list() == ["base"]
    driver.remove("base")
    assert leftovers(driver) == []


def test_what_cannot_be_deleted_keeps_nothing_else_in_the_trash(ext4: Path) -> None:
    require("chattr")
    driver = Driver(ext4 / "home")
    trash = ext4 / "home/trash"
    for name in "abc":
        (trash / name).mkdir()
        (trash / name / "file").touch()
    subprocess.run(["chattr", "+i", trash / "b/file"], check=True)
    with pytest.raises(OperationError, match="trash/b/file"):
        empty_trash(driver.home)
    assert leftovers(driver) == ["b"]


def test_nobody_is_started_for_what_somebody_deletes_already(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    (ext4 / "home/trash/layer.0").mkdir()
    fd = os.open(ext4 / "home/trash/layer.0", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    before = list(behind._started)
    driver.create("base")
    driver.remove("base")
    Driver(driver.home)
    assert set(behind._started) <= set(before)
    os.close(fd)
    Driver(driver.home)
    wait_until(lambda: leftovers(driver) == [])


def test_what_a_dead_process_was_deleting_is_not_passed_over(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    dying = ext4 / "home/trash/a-dying"
    dying.mkdir()
    make_big(driver, "big")
    fd = os.open(dying, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with stopped_helper(driver, "big"):  # it has found the first one locked
        os.close(fd)
        Driver(driver.home)  # which sees that somebody empties the trash
    wait_until(lambda: leftovers(driver) == [])


def test_files_in_the_trash_go_too(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    (ext4 / "home/trash/file").touch()
    (ext4 / "home/trash/link").symlink_to(ext4)
    empty_trash(driver.home)
    assert leftovers(driver) == []


def test_a_layer_that_is_a_mount_point_stays(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    driver.create("base")
    subprocess.run(["mount", "--bind", driver.path("base"), driver.path("base")], check=True)
    try:
        with pytest.raises(OperationError, match=r"dir/base: remove: .*busy"):
            driver.remove("base")
    finally:
        subprocess.run(["umount", driver.path("base")], check=True)
    assert driver.list() == ["base"]
    driver.remove("base")
    assert leftovers(driver) == []


def test_no_zombies_are_left_in_a_process_that_removes_much(ext4: Path) -> None:
    driver = Driver(ext4 / "home")
    for number in range(8):
        driver.create(str(number))
        driver.remove(str(number), wait=False)
    wait_until(lambda: leftovers(driver) == [])
    wait_until(lambda: behind._started == [])


def test_without_an_interpreter_to_start_it_is_deleted_here(
    ext4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(ext4 / "home")
    driver.create("base")
    monkeypatch.setattr(sys, "executable", None)
    driver.remove("base", wait=False)
    assert leftovers(driver) == []


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_a_layer_can_be_removed_from_a_full_disk(kind: str, tmp_path: Path) -> None:
    with mounted(kind, tmp_path, 64 << 20) as place:
        driver = Driver(place / "home")
        with driver.build("base") as path:
            (Path(path) / "file").write_bytes(bytes(1 << 20))
        fill_up(place)
        Driver(driver.home).remove("base", wait=False)
        wait_until(lambda: leftovers(driver) == [])
        assert driver.list() == []
