"""Many hands: the copy, its errors and its report are those of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.copy import CopyError, CopyReport, Pool, copy_tree, crew
from reflayer.copy.board import Board
from reflayer.copy.helpers import Helper
from tests.trees import assert_same, facts

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def place(place_on: Callable[[str], Path]) -> Path:
    return place_on("tmpfs")


def _fill(root: Path, folders: int = 60, files: int = 60) -> None:
    root.mkdir()
    for folder in range(folders):
        (root / f"{folder}").mkdir()
        for file in range(files):
            (root / f"{folder}/{file}").write_bytes(b"x" * file)
        if folder:
            os.link(root / "0/0", root / f"{folder}/twin")


class _Watched(Pool):
    """A pool that remembers whom it gave."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.hired: list[Helper] = []

    def hire(self) -> Helper | None:
        helper = super().hire()
        if helper is not None:
            self.hired.append(helper)
        return helper

    @property
    def pids(self) -> list[int]:
        return [helper._pid for helper in self.hired]


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_helpers_take_part(place: Path, warm_pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(place / "src")
    before = facts(place / "src")
    taken: list[int] = []
    close = Board.close

    def look_and_close(board: Board) -> None:
        taken.extend(board._numbers[6 * slot + 2] for slot in range(1, 3))
        close(board)

    monkeypatch.setattr(Board, "close", look_and_close)
    for number in range(3):
        report = copy_tree(place / "src", place / f"{number}", workers=3, pool=warm_pool)
        assert_same(before, facts(place / f"{number}"))
        assert report.entries == {"file": 3600, "directory": 61, "hardlink": 59}
        assert report.bytes == {"range": sum(range(60)) * 60}
    assert sum(taken) > 0


@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_folders_that_others_finish_have_their_own_mode(
    place: Path, warm_pool: Pool, umask: int
) -> None:
    _fill(place / "src", 200, 20)
    for folder in range(200):  # what folders are made with here, and with no umask, among them
        (place / f"src/{folder}").chmod((0o755, 0o700, 0o750, 0o4755)[folder % 4])
    before = facts(place / "src")

    old = os.umask(umask)
    try:
        for number in range(3):
            copy_tree(place / "src", place / f"{number}", workers=3, pool=warm_pool)
            assert_same(before, facts(place / f"{number}"))
    finally:
        os.umask(old)


def test_a_wide_folder_of_the_longest_names_is_shared(place: Path, warm_pool: Pool) -> None:
    (place / "src").mkdir()
    src = os.fsencode(place / "src")
    for number in range(3000):
        name = b"%d" % number
        path = src + b"/" + name + b"\xff" * (255 - len(name))
        if number % 3:
            os.mknod(path)
        else:
            os.mkdir(path)
            os.mknod(path + b"/file")
    before = facts(place / "src")

    for number in range(3):
        report = copy_tree(place / "src", place / f"{number}", workers=3, pool=warm_pool)
        assert_same(before, facts(place / f"{number}"))
        assert report.entries == {"file": 3000, "directory": 1001}


def test_many_wide_folders_are_shared_without_end_of_stack(place: Path, warm_pool: Pool) -> None:
    _fill(place / "src", 16, 600)
    before = facts(place / "src")
    copy_tree(place / "src", place / "dst", workers=3, pool=warm_pool)
    assert_same(before, facts(place / "dst"))


def test_deep_and_wide_together(place: Path, warm_pool: Pool) -> None:
    fd = os.open(place, os.O_RDONLY)
    for level in range(500):
        name = "src" if level == 0 else "deep"
        os.mkdir(name, dir_fd=fd)
        above, fd = fd, os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(above)
        for number in range(4):
            os.mkdir(f"{number}", dir_fd=fd)
            os.mknod(f"{number}/file", dir_fd=fd)
    os.close(fd)
    before = facts(place / "src")

    report = copy_tree(place / "src", place / "dst", workers=3, pool=warm_pool)

    assert_same(before, facts(place / "dst"))
    assert report.entries == {"file": 2000, "directory": 2500}


def test_few_descriptors_are_enough(place: Path) -> None:
    _fill(place / "src", 10, 300)
    fd = os.open(place / "src", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("deep", dir_fd=fd)
        above, fd = fd, os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(above)
    os.close(fd)
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from reflayer.copy import copy_tree, crew
crew._ALONE = -1
copy_tree(sys.argv[1], sys.argv[2], workers=3)
copy_tree(sys.argv[1], sys.argv[3], method="tar")
"""
    command = [sys.executable, "-c", code, f"{place}/src", f"{place}/dst", f"{place}/tar"]
    subprocess.run(command, check=True)
    assert_same(facts(place / "src"), facts(place / "dst"))
    assert_same(facts(place / "src"), facts(place / "tar"))


def test_progress_only_grows_and_ends_with_the_report(
    place: Path, warm_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_TELL", 0)
    _fill(place / "src")
    for method, workers in (("auto", 1), ("auto", 3), ("tar", 1)):
        told: list[tuple[int, int]] = []
        report = copy_tree(
            place / "src",
            place / f"{method}{workers}",
            method=method,
            workers=workers,
            pool=warm_pool,
            progress=lambda entries, size: told.append((entries, size)),  # noqa: B023
        )
        assert told == sorted(told)
        assert told[-1] == (sum(report.entries.values()), sum(report.bytes.values()))
        assert method == "tar" or len(told) > 5


def test_an_error_is_that_of_one_process_whoever_meets_it(
    place_on: Callable[[str], Path], warm_pool: Pool
) -> None:
    here, there = place_on("tmpfs"), place_on("xfs")
    _fill(here / "src")
    (here / "src/59/inner").mkdir()
    (here / "src/59/inner/too long").symlink_to("t" * 2000)  # XFS stops at 1023
    told = set()
    for number in range(3):
        with pytest.raises(CopyError) as caught:
            copy_tree(here / "src", there / "dst", workers=1 + number % 3, pool=warm_pool)
        error = caught.value
        told.add((error.path, error.operation, error.reason, error.errno))
        assert not (there / "dst").exists()
    expected = str(here / "src/59/inner/too long"), "create", "File name too long", 36
    assert told == {expected}


def test_two_copies_at_once_share_a_pool(place: Path, warm_pool: Pool) -> None:
    _fill(place / "src")
    before = facts(place / "src")
    reports: list[CopyReport] = []

    def copy(number: int) -> None:
        for turn in range(3):
            dst = place / f"{number}.{turn}"
            reports.append(copy_tree(place / "src", dst, workers=3, pool=warm_pool))

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({(str(r.entries), str(r.bytes)) for r in reports}) == 1
    assert len(reports) == 9
    for number in range(3):
        assert_same(before, facts(place / f"{number}.2"))


@pytest.mark.parametrize("victim", ["first", "all"])
def test_a_helper_that_is_killed_is_an_error_and_the_destination_goes(
    place: Path, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_TELL", 0)
    _fill(place / "src")
    pool = _Watched(2)

    def kill(*_: int) -> None:
        for pid in pool.pids[: 1 if victim == "first" else None]:
            if _is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(CopyError, match="it died"):
        copy_tree(place / "src", place / "dst", workers=3, pool=pool, progress=kill)
    pool.close()

    assert os.listdir(place) == ["src"]
    assert not any(map(_is_alive, pool.pids))


def test_a_helper_that_died_in_the_pool_is_replaced(place: Path) -> None:
    _fill(place / "src")
    pool = _Watched(2)
    copy_tree(place / "src", place / "first", workers=3, pool=pool)
    for helper in list(pool._free):
        os.kill(helper._pid, signal.SIGKILL)
        os.waitid(os.P_PID, helper._pid, os.WEXITED | os.WNOWAIT)

    copy_tree(place / "src", place / "second", workers=3, pool=pool)

    pool.close()
    assert_same(facts(place / "src"), facts(place / "second"))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("method", ["auto", "tar"])
def test_an_interrupt_undoes_the_copy(
    place: Path, method: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "_TELL", 0)
    _fill(place / "src")
    before = facts(place / "src")
    fds = os.listdir("/proc/self/fd")
    told = 0

    def interrupt(*_: int) -> None:
        nonlocal told
        told += 1
        if told == 3 or method == "tar":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        copy_tree(place / "src", place / "dst", method=method, workers=workers, progress=interrupt)

    assert os.listdir(place) == ["src"]
    assert_same(before, facts(place / "src"))
    assert os.listdir("/proc/self/fd") == fds


def test_no_descriptor_and_no_process_is_left(place: Path) -> None:
    _fill(place / "src")
    before = os.listdir("/proc/self/fd")
    children = _children()
    for method in ("auto", "stream", "tar"):
        copy_tree(place / "src", place / method, method=method, workers=3)
        assert os.listdir("/proc/self/fd") == before
        assert _children() == children
    with pytest.raises(CopyError):
        copy_tree(place / "src", place / "auto")
    assert os.listdir("/proc/self/fd") == before


def _children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_an_interrupt_at_the_terminal_does_not_end_a_helper_that_is_starting() -> None:
    helper = Helper()
    os.kill(helper._pid, signal.SIGINT)
    assert helper.answer() == ("up",)
    helper.end()


def test_helpers_end_with_a_caller_that_is_killed(place: Path) -> None:
    _fill(place / "src", 100, 100)
    code = """
import sys, time
from reflayer.copy import Pool, copy_tree, crew
crew._ALONE = crew._TELL = -1
hired = []
class Watched(Pool):
    def hire(self):
        helper = super().hire()
        if helper:
            hired.append(helper._pid)
        return helper
def tell(*_):
    if len(hired) == 2:
        print(*hired, flush=True)
        time.sleep(60)
copy_tree(sys.argv[1], sys.argv[2], workers=3, pool=Watched(2), progress=tell)
"""
    command = [sys.executable, "-c", code, f"{place}/src", f"{place}/dst"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        pids = [int(pid) for pid in caller.stdout.readline().split()]
        assert len(pids) == 2
        caller.kill()
    deadline = time.monotonic() + 20
    while any(map(_is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_is_alive, pids))
