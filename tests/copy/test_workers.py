"""Many workers: the copy, its errors and its report are those of one."""

from __future__ import annotations

import _thread
import dis
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from reflayer import copy_tree
from reflayer.copy import CopyError, CopyReport, Pool
from reflayer.copy.folder import Folder
from reflayer.copy.worker import Worker
from reflayer.workers import pool
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


def test_threads_take_part(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(place / "src")
    before = facts(place / "src")
    parts: list[int] = []
    copy_below = Worker.copy_below

    def note_and_copy(worker: Worker, folder: Folder) -> None:
        parts.append(threading.get_native_id())
        copy_below(worker, folder)

    monkeypatch.setattr(Worker, "copy_below", note_and_copy)
    for number in range(3):
        report = copy_tree(place / "src", place / f"{number}", workers=3)
        assert_same(before, facts(place / f"{number}"))
        assert report.entries == {"file": 3600, "directory": 61, "hardlink": 59}
        assert report.bytes == {"range": sum(range(60)) * 60}
    assert len(set(parts)) > 3  # three callers' turns, and threads


@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_folders_that_others_finish_have_their_own_mode(place: Path, umask: int) -> None:
    _fill(place / "src", 200, 20)
    for folder in range(200):  # what folders are made with here, and with no umask, among them
        (place / f"src/{folder}").chmod((0o755, 0o700, 0o750, 0o4755)[folder % 4])
    before = facts(place / "src")

    old = os.umask(umask)
    try:
        for number in range(3):
            copy_tree(place / "src", place / f"{number}", workers=3)
            assert_same(before, facts(place / f"{number}"))
    finally:
        os.umask(old)


def test_a_wide_folder_of_the_longest_names_is_shared(place: Path) -> None:
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
        report = copy_tree(place / "src", place / f"{number}", workers=3)
        assert_same(before, facts(place / f"{number}"))
        assert report.entries == {"file": 3000, "directory": 1001}


def test_many_wide_folders_are_shared_without_end_of_stack(place: Path) -> None:
    _fill(place / "src", 16, 600)
    before = facts(place / "src")
    copy_tree(place / "src", place / "dst", workers=3)
    assert_same(before, facts(place / "dst"))


def test_deep_and_wide_together(place: Path) -> None:
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

    report = copy_tree(place / "src", place / "dst", workers=3)

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
from reflayer import copy_tree
from reflayer.workers import pool
pool._ALONE = -1
copy_tree(sys.argv[1], sys.argv[2], workers=3)
copy_tree(sys.argv[1], sys.argv[3], method="tar")
"""
    command = [sys.executable, "-c", code, f"{place}/src", f"{place}/dst", f"{place}/tar"]
    subprocess.run(command, check=True)
    assert_same(facts(place / "src"), facts(place / "dst"))
    assert_same(facts(place / "src"), facts(place / "tar"))


def test_progress_only_grows_and_ends_with_the_report(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_TELL", 0)
    _fill(place / "src")
    for method, workers in (("auto", 1), ("auto", 3), ("tar", 1)):
        told: list[tuple[str, int, int | None]] = []
        report = copy_tree(
            place / "src",
            place / f"{method}{workers}",
            method=method,
            workers=workers,
            progress=lambda *what: told.append(what),  # noqa: B023
        )
        assert {(stage, total) for stage, _, total in told} == {("clone", None)}
        entries = [done for _, done, _ in told]
        assert entries == sorted(entries)
        assert entries[-1] == sum(report.entries.values())
        assert method == "tar" or len(told) > 5


def test_an_error_is_that_of_one_process_whoever_meets_it(place_on: Callable[[str], Path]) -> None:
    here, there = place_on("tmpfs"), place_on("xfs")
    _fill(here / "src")
    (here / "src/59/inner").mkdir()
    (here / "src/59/inner/too long").symlink_to("t" * 2000)  # XFS stops at 1023
    told = set()
    for number in range(3):
        with pytest.raises(CopyError) as caught:
            copy_tree(here / "src", there / "dst", workers=1 + number % 3)
        error = caught.value
        told.add((error.path, error.operation, error.reason, error.errno))
        assert not (there / "dst").exists()
    expected = str(here / "src/59/inner/too long"), "create", "File name too long", 36
    assert told == {expected}


def test_two_copies_at_once_share_a_pool(place: Path) -> None:
    _fill(place / "src")
    before = facts(place / "src")
    reports: list[CopyReport] = []

    def copy(number: int) -> None:
        for turn in range(3):
            dst = place / f"{number}.{turn}"
            reports.append(copy_tree(place / "src", dst, workers=3))

    threads = [threading.Thread(target=copy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({(str(r.entries), str(r.bytes)) for r in reports}) == 1
    assert len(reports) == 9
    for number in range(3):
        assert_same(before, facts(place / f"{number}.2"))


def test_a_thread_that_dies_is_an_error_and_the_destination_goes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(place / "src")
    fds = os.listdir("/proc/self/fd")
    monkeypatch.setattr(Worker, "_enter", _dying_in_a_thread(Worker._enter))
    with pytest.raises(MemoryError):
        copy_tree(place / "src", place / "dst", workers=3)
    assert os.listdir(place) == ["src"]
    assert os.listdir("/proc/self/fd") == fds


def _dying_in_a_thread(enter: Callable[[Worker, Folder, bytes], Folder]) -> Callable[..., Folder]:
    caller = threading.get_ident()

    def enter_or_die(worker: Worker, parent: Folder, name: bytes) -> Folder:
        if threading.get_ident() != caller:
            raise MemoryError
        return enter(worker, parent, name)

    return enter_or_die


def test_where_no_thread_can_be_started_the_caller_works_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    _fill(place / "src")
    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    copy_tree(place / "src", place / "dst", workers=3)
    assert_same(facts(place / "src"), facts(place / "dst"))


def test_a_pool_bounds_the_threads_of_all_that_share_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(place / "src")
    started: list[object] = []
    start = _thread.start_new_thread

    def note_and_start(*arguments: Any) -> Any:
        started.append(arguments)
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", note_and_start)
    with Pool(2) as shared:
        copy_tree(place / "src", place / "four", workers=4, pool=shared)
        assert len(started) == 2
        copy_tree(place / "src", place / "more", pool=shared)
        assert len(started) == 4
    copy_tree(place / "src", place / "closed", workers=3, pool=shared)
    assert len(started) == 4


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("method", ["auto", "tar"])
def test_an_interrupt_undoes_the_copy(
    place: Path, method: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_TELL", 0)
    _fill(place / "src")
    before = facts(place / "src")
    fds = os.listdir("/proc/self/fd")
    told = 0

    def interrupt(*_: object) -> None:
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


@pytest.mark.parametrize("pure", [False, True])
def test_a_folder_of_many_names_is_interrupted_at_once(place: Path, pure: bool) -> None:
    (place / "src").mkdir()
    for number in range(100_000):
        os.mknod(place / "src" / str(number))
    code = """
import signal, sys, time
from reflayer.copy import copy_tree
def interrupt(*_):
    global at
    at = time.monotonic()
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
from reflayer.copy.destination import Destination
undo = Destination.undo
def note_and_undo(destination):
    print(time.monotonic() - at)
    undo(destination)
Destination.undo = note_and_undo
signal.setitimer(signal.ITIMER_REAL, 0.05)  # long before 100,000 files can be made
try:
    copy_tree(sys.argv[1], sys.argv[2], workers=2)
except KeyboardInterrupt:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"{place}/src", f"{place}/dst"],
        env={**os.environ, "REFLAYER_PURE": str(int(pure))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 1  # 0.1, on a quiet machine
    assert os.listdir(place) == ["src"]


class _Signal(BaseException):
    pass


def _signalled(run: Callable[[], None], after: int) -> bool:
    """Whether ``run`` was ended by what a signal's handler raises in it, ``after`` such places.

    A handler runs when a function begins, when a call is over, and when a loop begins anew.
    """
    places = after
    last: dict[int, str] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal places
        if frame.f_code.co_filename != pool.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            operation = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            before = last.get(id(frame), "RESUME")
            last[id(frame)] = operation
            if before.startswith(("CALL", "RESUME", "JUMP_BACKWARD")):
                places -= 1
                if places < 0:
                    sys.settrace(None)
                    raise _Signal
        return trace

    sys.settrace(trace)
    try:
        run()
    except _Signal:
        return True
    finally:
        sys.settrace(None)
    return False


def test_a_signal_at_any_place_ends_the_walk_and_nobody_waits_for_ever() -> None:
    threads = _thread._count()
    place = signalled = 0
    left: list[int] = []
    own = Pool(2)

    def step(workers: pool.Workers, count: int) -> None:
        while count:
            if workers.pause() and workers.give(count // 2):
                count -= count // 2
            count -= 1
            time.sleep(1e-5)

    def walk() -> None:
        workers = pool.Workers(lambda: lambda count: step(workers, count), None, own)
        workers.run(100)

    def walk_on() -> None:
        nonlocal place, signalled, own
        for place in range(400):
            own = Pool(2)
            signalled += _signalled(walk, place)
            while _thread._count() > threads + 1:  # they saw the end, and are on their last steps
                time.sleep(1e-4)
            left.append(own._free)

    caller = threading.Thread(target=walk_on, daemon=True)
    caller.start()
    caller.join(60)
    assert not caller.is_alive(), f"it waits for ever after a signal at place {place}"
    assert set(left) == {2}
    assert signalled > 100


def test_a_forked_process_has_a_pool_of_its_own() -> None:
    shared = pool.shared_pool()
    taken = 0
    while shared.take():
        taken += 1
    try:
        process = os.fork()
        if not process:
            os._exit(pool.shared_pool()._free == taken)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 1
    finally:
        for _ in range(taken):
            shared.give_back()


def test_copies_end_with_their_own_error_however_few_descriptors_there_are(place: Path) -> None:
    _fill(place / "src", 20, 3)
    (place / "src/0/a/b/c/d").mkdir(parents=True)
    code = """
import os, resource, sys
from reflayer.copy import CopyError, copy_tree
from reflayer.workers import pool
pool._ALONE = -1
ended = []
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
start = len(os.listdir("/proc/self/fd")) - 1
for most in range(start, start + 40):
    for workers in (1, 3):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        try:
            copy_tree(sys.argv[1], f"{sys.argv[2]}.{most}.{workers}", workers=workers)
            ended.append(True)
        except CopyError as error:
            assert error.errno == 24 and not os.path.lexists(f"{sys.argv[2]}.{most}.{workers}")
            ended.append(False)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(os.listdir("/proc/self/fd")) - 1 == start
assert ended[0] is False and ended[-1] is True
"""
    subprocess.run([sys.executable, "-c", code, f"{place}/src", f"{place}/dst"], check=True)


def test_many_workers_at_depth_need_no_more_descriptors_than_few(place: Path) -> None:
    for number in range(48):
        (place / f"src/{number}" / "/".join("d" * 40)).mkdir(parents=True)
    code = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from reflayer.copy import copy_tree, remove_tree, worker
from reflayer.walk import empty
from reflayer.workers import pool
pool._ALONE = -1
def slowly(do):
    def wait_and_do(*arguments):
        time.sleep(0.002)  # all workers go down at once
        return do(*arguments)
    return wait_and_do
worker.Worker._copy = slowly(worker.Worker._copy)
empty._Emptied.unlink_files = slowly(empty._Emptied.unlink_files)
copy_tree(sys.argv[1], sys.argv[2], workers=24)
assert remove_tree(sys.argv[2], workers=24) == 1 + 48 * 41
"""
    subprocess.run([sys.executable, "-c", code, f"{place}/src", f"{place}/dst"], check=True)
