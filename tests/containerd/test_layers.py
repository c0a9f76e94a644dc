"""Layers of images: unpacked into differences, as containerd's applier does it."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from reflayer.driver import Driver
from reflayer.driver.write_back import writing_back
from reflayer.plugins.containerd import write_back
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from reflayer.plugins.containerd.records import Kind, Records
from reflayer.plugins.containerd.snapshotter import Snapshotter
from reflayer.plugins.service import Metrics, Work
from tests.containerd.served import Served, code, folders_of, served, until
from tests.file_systems import mounted
from tests.random_stacks import overlay
from tests.trees import assert_same, facts

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

TIME = 1_234_567_890_000_000_000
OPAQUE = "trusted.overlay.opaque"


@pytest.fixture(params=["ext4", "xfs"])
def service(
    request: pytest.FixtureRequest, place_on: Callable[[str], Path], socket: Path
) -> Iterator[Served]:
    """The service, where layers are differences: blocks are shared on one of the two alone."""
    with served(place_on(request.param) / "home", socket) as service:
        yield service


def folder(path: Path, mode: int = 0o755) -> Path:
    """A folder that the layer has an entry for; its content has to be there."""
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    os.utime(path, ns=(TIME, TIME))
    return path


def file(path: Path, text: str = "") -> None:
    """A file, and folders on the way that the layer has no entry for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(TIME, TIME))


def whiteout(path: Path) -> None:
    """What becomes of a whiteout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)


def device(path: Path, mode: int) -> None:
    """A device 0:0 that the layer has."""
    os.mknod(path, stat.S_IFCHR, 0)
    path.chmod(mode)
    os.utime(path, ns=(TIME, TIME))


def base(service: Served) -> None:
    """The committed layer ``base``."""
    upper, lower = service.unpack("extract-1 base")
    assert lower == []
    file(upper / "etc/hosts", "localhost")
    os.link(upper / "etc/hosts", upper / "etc/other")
    os.symlink("etc", upper / "link")
    file(upper / "etc/gone")
    file(upper / "usr/lib/old", "old")
    for path, mode in (("etc", 0o750), ("usr/lib", 0o711), ("usr", 0o755)):
        folder(upper / path, mode)
    os.chown(upper / "etc", 12, 34)
    os.setxattr(upper / "etc", "user.name", b"value")
    os.utime(upper / "etc", ns=(TIME, TIME))
    os.symlink("usr/lib", upper / "lib")
    service.commit("base", "extract-1 base")


def top(service: Served) -> Path:
    """The committed layer ``top`` on ``base``; its folder."""
    upper, _ = service.unpack("extract-1 top", "base")
    whiteout(upper / "etc/gone")
    file(upper / "etc/new", "new")
    os.setxattr(folder(upper / "usr"), OPAQUE, b"y")
    service.commit("top", "extract-1 top")
    return upper


def refusal(call: Callable[[], object]) -> grpc.StatusCode:
    """With which code a call is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return code(refused.value)


def test_a_layer_is_to_be_unpacked_into_a_difference_on_its_parent(service: Served) -> None:
    base(service)
    (tree,) = service.folders()
    upper = top(service)
    key = "default/7/extract-123456789-aB_- sha256:1234"
    other, lower = service.unpack(key, "top")
    assert os.listdir(other) == []
    assert lower == [upper, service.home / "dir" / tree]
    assert folders_of(service.mounts(key)) == (other, lower)


@pytest.mark.parametrize(
    "key", ["extract", "extracted", "a-extract-1", "extract-1/a", "default/1/container"]
)
def test_any_other_snapshot_is_a_clone(service: Served, key: str) -> None:
    base(service)
    assert (service.prepare(key, "base") / "etc/hosts").read_text() == "localhost"


def test_a_container_is_a_clone_of_all_its_layers(service: Served, tmp_path: Path) -> None:
    base(service)
    upper = top(service)
    (tree,) = service.folders()
    container = service.prepare("container", "top")
    assert not (container / "etc/gone").exists()
    assert os.listdir(container / "usr") == []
    assert (container / "etc/hosts").samefile(container / "etc/other")
    with overlay(tmp_path, [upper, service.home / "dir" / tree]) as union:
        assert_same(facts(container, atime=False), facts(union, atime=False))


def test_a_commit_of_a_container_is_whole(service: Served) -> None:
    base(service)
    top(service)
    (service.prepare("container", "top") / "etc/own").write_text("own")
    before = len(service.differences())
    service.commit("committed", "container")
    assert len(service.differences()) == before
    clone = service.prepare("next", "committed")
    assert sorted(os.listdir(clone / "etc")) == ["hosts", "new", "other", "own"]


def test_layers_lie_on_a_commit_of_a_container(service: Served) -> None:
    (service.prepare("container") / "file").write_text("whole")
    service.commit("committed", "container")
    upper, lower = service.unpack("extract-1 x", "committed")
    assert [one.name for one in lower] == [*service.folders()]
    file(upper / "new")
    service.commit("x", "extract-1 x")
    assert sorted(os.listdir(service.prepare("next", "x"))) == ["file", "new"]


def test_folders_without_an_entry_are_those_below(service: Served) -> None:
    base(service)
    before = facts(service.prepare("before", "base"), atime=False)
    upper, _ = service.unpack("extract-1 x", "base")
    file(upper / "etc/deep/new")
    file(upper / "usr/lib/new")
    service.commit("x", "extract-1 x")
    after = facts(service.prepare("after", "x"), atime=False)
    for added in (b"etc/deep", b"etc/deep/new", b"usr/lib/new"):
        del after[added]
    assert_same(after, before)


def test_a_folder_with_an_entry_is_what_that_says(service: Served) -> None:
    base(service)
    upper, _ = service.unpack("extract-1 x", "base")
    file(upper / "etc/new")
    folder(upper / "etc", 0o700)
    service.commit("x", "extract-1 x")
    status = os.stat(service.prepare("after", "x") / "etc")
    assert (status.st_mode & 0o7777, status.st_mtime_ns, status.st_uid) == (0o700, TIME, 0)


def test_the_root_stays_that_of_the_lowest_layer(service: Served) -> None:
    upper, _ = service.unpack("extract-1 base")
    file(upper / "file")
    service.commit("base", "extract-1 base")
    root = service.prepare("before", "base").stat()
    assert root.st_mode & 0o7777 == 0o755
    upper, _ = service.unpack("extract-1 x", "base")
    file(upper / "new")
    service.commit("x", "extract-1 x")
    assert service.prepare("after", "x").stat().st_mtime_ns == root.st_mtime_ns


@pytest.mark.parametrize("mode", [0o600, 0])
def test_a_device_of_a_layer_is_no_whiteout(service: Served, mode: int) -> None:
    for name, parent in (("base", ""), ("x", "base")):
        upper, _ = service.unpack(f"extract-1 {name}", parent)
        device(upper / name, mode)
        os.chown(upper / name, 12, 34)
        os.utime(upper / name, ns=(TIME, TIME))
        service.commit(name, f"extract-1 {name}")
    container = service.prepare("container", "x")
    for name in ("base", "x"):
        status = os.lstat(container / name)
        assert stat.S_ISCHR(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == mode
        assert (status.st_rdev, status.st_mtime_ns, status.st_uid) == (0, TIME, 12)


def test_attributes_like_overlayfs_own_are_kept(service: Served) -> None:
    for name, parent in (("base", ""), ("x", "base")):
        upper, _ = service.unpack(f"extract-1 {name}", parent)
        file(upper / name / "file")
        for path in (upper / name, upper / name / "file"):
            os.setxattr(path, "user.overlay.opaque", b"y")
        os.link(upper / name / "file", upper / name / "link")
        folder(upper / name)
        service.commit(name, f"extract-1 {name}")
    container = service.prepare("container", "x")
    for name in ("base", "x"):
        for path in (container / name, container / name / "file", container / name / "link"):
            assert os.listxattr(path) == ["user.overlay.opaque"]


def test_a_path_through_a_link_below_leads_where_that_does(service: Served) -> None:
    base(service)
    upper, _ = service.unpack("extract-1 x", "base")
    file(upper / "lib/new", "new")
    whiteout(upper / "lib/old")
    file(upper / "lib/deep/new", "deep")
    service.commit("x", "extract-1 x")
    container = service.prepare("container", "x")
    assert os.readlink(container / "lib") == "usr/lib"
    assert sorted(os.listdir(container / "usr/lib")) == ["deep", "new"]
    assert (container / "lib/deep/new").read_text() == "deep"
    status = (container / "usr/lib").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o711, TIME)


def test_a_folder_in_a_links_place_is_one_where_the_layer_says_so(service: Served) -> None:
    base(service)
    upper, _ = service.unpack("extract-1 x", "base")
    file(upper / "lib/deep/new")
    folder(upper / "lib")
    service.commit("x", "extract-1 x")
    container = service.prepare("container", "x")
    assert not (container / "lib").is_symlink()
    assert os.listdir(container / "lib") == ["deep"]
    assert os.listdir(container / "usr/lib") == ["old"]


def test_no_link_of_a_layer_leads_out_of_it(service: Served, tmp_path: Path) -> None:
    upper, _ = service.unpack("extract-1 base")
    os.symlink("one/two", upper / "way")
    file(upper / "one/two/old")
    service.commit("base", "extract-1 base")
    upper, _ = service.unpack("extract-1 x", "base")
    os.symlink(tmp_path, upper / "one")
    file(upper / "way/new")
    service.commit("x", "extract-1 x")
    assert os.listdir(tmp_path) == []


def test_the_first_of_layers_that_are_told_late_is_whole(service: Served) -> None:
    upper, _ = service.unpack("extract-1 base")
    whiteout(upper / "nothing")
    os.setxattr(folder(upper / "folder"), OPAQUE, b"y")
    service.commit("base", "extract-1 base")
    assert not service.differences()
    container = service.prepare("container", "base")
    assert os.listdir(container) == ["folder"]
    assert os.listxattr(container / "folder") == []
    assert os.stat(container / "folder").st_mtime_ns == TIME


def test_layers_unpacked_at_once_are_laid_upon_each_other_in_the_end(service: Served) -> None:
    uppers = [service.unpack(f"extract-1 {number}")[0] for number in range(3)]
    file(uppers[2] / "etc/2")
    whiteout(uppers[2] / "etc/0")
    file(uppers[0] / "etc/0")
    folder(uppers[0] / "etc", 0o711)
    file(uppers[1] / "etc/1")
    service.commit("0", "extract-1 0")
    service.commit("1", "extract-1 1", parent="0")
    service.commit("2", "extract-1 2", parent="1")
    assert [service.stat(name).parent for name in "012"] == ["", "0", "1"]
    container = service.prepare("container", "2")
    assert sorted(os.listdir(container / "etc")) == ["1", "2"]
    assert (container / "etc").stat().st_mode & 0o7777 == 0o711
    assert (container / "etc").stat().st_mtime_ns == TIME
    assert refusal(lambda: service.remove("0")) is FAILED_PRECONDITION


def test_a_parent_that_cannot_be_is_refused_at_the_commit(service: Served) -> None:
    base(service)
    top(service)
    service.unpack("extract-1 late")
    service.unpack("extract-1 early", "base")
    service.prepare("whole")
    for parent, refused in (
        ("nowhere", NOT_FOUND),
        ("whole", FAILED_PRECONDITION),
        ("extract-1 late", FAILED_PRECONDITION),
    ):
        commit = lambda: service.commit("x", "extract-1 late", parent=parent)  # noqa: B023, E731
        assert refusal(commit) is refused
    assert refusal(lambda: service.commit("x", "extract-1 early", parent="top")) is INVALID_ARGUMENT
    assert refusal(lambda: service.commit("x", "whole", parent="base")) is FAILED_PRECONDITION
    service.commit("x", "extract-1 early", parent="base")
    service.commit("y", "extract-1 late", parent="x")
    service.commit("z", "whole")


def test_usage_of_a_layer_is_its_own(service: Served) -> None:
    upper, _ = service.unpack("extract-1 base")
    (upper / "file").write_bytes(os.urandom(1 << 20))
    service.commit("base", "extract-1 base")
    upper, _ = service.unpack("extract-1 x", "base")
    whiteout(upper / "file")
    (upper / "other").write_bytes(os.urandom(1 << 16))
    os.sync()
    for name in ("extract-1 x", "x"):
        size, inodes = service.usage(name)
        assert 1 << 16 <= size < 1 << 17
        assert inodes == 3  # the root's and the whiteout's, as overlayfs' snapshotter counts
        if name != "x":
            service.commit("x", name)


def test_all_views_of_a_layer_show_one_tree_that_goes_behind_them(service: Served) -> None:
    base(service)
    top(service)
    before = service.folders()
    tree = service.view("v", "top")
    assert service.view("w", "top") == tree
    assert service.usage("v") == (0, 0)
    assert sorted(os.listdir(tree / "etc")) == ["hosts", "new", "other"]
    assert len(service.folders() - before) == 1
    service.remove("v")
    assert (tree / "etc/new").read_text() == "new"
    service.remove("w")
    if not shares_blocks(service):
        assert service.folders() == before


def shares_blocks(service: Served) -> bool:
    """Whether what a tree takes is little."""
    kind = ["stat", "--file-system", "--format=%T", str(service.home)]
    return subprocess.check_output(kind) == b"xfs\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_view_shows_its_tree_over_a_restart(service: Served, number: int, tmp_path: Path) -> None:
    base(service)
    top(service)
    tree = service.view("v", "top")
    (place := tmp_path / "mounted").mkdir()
    subprocess.run(["mount", "--bind", tree, place], check=True)
    try:
        service.stop(number)
        service.start()
        assert service.folder("v") == tree
        assert (place / "etc/new").read_text() == "new"
    finally:
        subprocess.run(["umount", place], check=True)
    before = service.folders()
    service.remove("v")
    if not shares_blocks(service):
        assert service.folders() == before - {tree.name}


def test_a_layer_is_unpacked_on_after_a_restart(service: Served) -> None:
    base(service)
    upper, lower = service.unpack("extract-1 x", "base")
    late, _ = service.unpack("extract-1 late")
    file(upper / "etc/new")
    service.stop(signal.SIGKILL)
    service.start()
    assert folders_of(service.mounts("extract-1 x")) == (upper, lower)
    assert folders_of(service.mounts("extract-1 late")) == (late, [])
    file(late / "etc/late")
    service.commit("x", "extract-1 x")
    service.commit("late", "extract-1 late", parent="x")
    assert len(os.listdir(service.prepare("container", "late") / "etc")) == 5


def test_layers_that_are_removed_leave_nothing(service: Served) -> None:
    base(service)
    top(service)
    service.unpack("extract-1 x", "top")
    service.view("v", "top")
    service.prepare("container", "top")
    assert refusal(lambda: service.remove("base")) is FAILED_PRECONDITION
    service.empty()
    service.cleanup()
    until(lambda: not service.leftovers())
    assert not service.folders() | service.differences()


def test_a_start_lets_go_of_layers_without_a_record(service: Served) -> None:
    base(service)
    upper, _ = service.unpack("extract-1 x", "base")
    service.stop(signal.SIGKILL)
    ours = upper.parent
    nobodys = ours.with_name("nobodys")
    subprocess.run(["cp", "-a", ours, nobodys], check=True)
    subprocess.run(["rm", "-r", ours], check=True)
    service.start()
    assert service.names() == ["base"]
    assert service.differences() == set()


def test_layers_are_there_whole_or_not_at_all_after_a_crash(service: Served) -> None:
    base(service)
    choose, committed = random.Random(1), {"base"}
    for crash in range(3):
        timer = threading.Timer(choose.uniform(0.01, 0.4), os.kill, (service.pid, signal.SIGKILL))
        timer.start()
        try:
            for number in itertools.count():
                name = f"{crash}-{number}"
                parent = "" if number % 2 else "base"
                upper, _ = service.unpack(f"extract-{name} x", parent)
                file(upper / "etc" / name)
                service.commit(name, f"extract-{name} x", parent="base")
                committed.add(name)
        except grpc.RpcError as error:
            assert code(error) is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017  where it comes
        timer.join()
        service.close()
        service.start()
        assert committed <= set(service.names())
    for name in service.names():
        if service.stat(name).kind == messages.COMMITTED:
            container = service.prepare(f"look {name}", name)
            inside = {"gone", "hosts", "other"} | ({name} if name != "base" else set())
            assert set(os.listdir(container / "etc")) == inside
    service.empty()
    service.cleanup()
    assert not service.folders() | service.differences()


def test_what_is_unpacked_is_written_out_before_the_commit(service: Served) -> None:
    upper, _ = service.unpack("extract-1 base")
    (upper / "file").write_bytes(os.urandom(16 << 20))  # the kernel leaves it in memory for 30 s
    end = time.monotonic() + 20
    while not has_places(upper / "file"):
        assert time.monotonic() < end, "it is in memory only"
        time.sleep(0.05)
    assert service.stop() == 0


def test_a_layer_that_could_not_be_written_out_is_not_committed_by_a_second_try(
    tmp_path: Path, socket: Path
) -> None:
    key = "extract-1 base"
    with (
        mounted("tmpfs", tmp_path, 24 << 20) as disk,
        mounted("ext4", disk, 200 << 20, features="^has_journal") as place,
        served(place / "home", socket) as service,
    ):
        upper, _ = service.unpack(key)
        (upper / "file").write_bytes(os.urandom(40 << 20))
        with pytest.raises(grpc.RpcError, match="syncfs: "):
            service.commit("base", key)
        subprocess.run(["mount", "-o", f"remount,size={400 << 20}", disk], check=True)
        with pytest.raises(grpc.RpcError, match="syncfs: "):
            service.commit("base", key)
        service.remove(key)
        service.unpack(key)
        service.commit("base", key)


def test_after_a_commit_that_was_cancelled_too_late_nothing_goes_on(
    place_on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(place_on("xfs") / "home")
    key = "extract-1 base"
    with (
        closing(Work()) as work,
        closing(Records(f"{driver.home}/snapshots.db")) as records,
        closing(Snapshotter(driver, records, work, Metrics())) as snapshotter,
    ):
        record = records.commit

        async def use() -> None:
            await snapshotter.create(Kind.ACTIVE, key, "", {})
            assert is_written_out_beside()
            commit = asyncio.ensure_future(snapshotter.commit("base", key, "", {}))
            loop = asyncio.get_running_loop()

            def cancel_and_record(*told: Any) -> None:
                loop.call_soon_threadsafe(commit.cancel)
                time.sleep(0.1)
                record(*told)

            monkeypatch.setattr(records, "commit", cancel_and_record)
            with pytest.raises(asyncio.CancelledError):
                await commit

        asyncio.run(use())
        assert records.get("base").kind is Kind.COMMITTED
        time.sleep(0.5)
        assert not is_written_out_beside()


def is_written_out_beside() -> bool:
    """Whether there is a thread for it."""
    return any(thread.name == "unpacking" for thread in threading.enumerate())


def test_what_came_before_the_first_look_is_written_out(
    place_on: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_on("xfs")
    has_come = threading.Event()

    def late(*told: str) -> AbstractContextManager[Callable[[int], None]]:
        has_come.wait()
        return writing_back(*told)

    monkeypatch.setattr(write_back, "writing_back", late)
    with closing(write_back.WriteBack(str(place))) as writing:
        writing.begin("layer")
        (place / "file").write_bytes(os.urandom(16 << 20))
        has_come.set()
        end = time.monotonic() + 20  # the kernel does so after 30
        while not has_places(place / "file"):
            assert time.monotonic() < end
            time.sleep(0.05)


def has_places(path: Path) -> bool:
    """Whether the file system has given data of the file a place on the disk."""
    told = subprocess.run(["filefrag", "-v", path], check=True, capture_output=True, text=True)
    extents = [line for line in told.stdout.splitlines() if line.strip()[:1].isdigit()]
    return any("delalloc" not in line for line in extents)


def test_where_clones_are_snapshots_layers_are_whole(
    place_on: Callable[[str], Path], socket: Path
) -> None:
    with served(place_on("btrfs") / "home", socket) as service:
        file(service.prepare("extract-1 base") / "file")
        service.commit("base", "extract-1 base")
        assert os.listdir(service.prepare("extract-1 x", "base")) == ["file"]
        assert not service.differences()
        service.prepare("extract-1 late")
        late = lambda: service.commit("x", "extract-1 late", parent="base")  # noqa: E731
        assert refusal(late) is FAILED_PRECONDITION


def test_in_a_user_namespace_a_layer_is_unpacked_into_a_clone(
    place_on: Callable[[str], Path], socket: Path
) -> None:
    service = Served(place_on("ext4") / "home", socket)
    try:
        service.start(under=["unshare", "--user", "--map-root-user"])
        file(service.prepare("extract-1 base") / "file")
        service.commit("base", "extract-1 base")
        assert os.listdir(service.prepare("extract-1 x", "base")) == ["file"]
    finally:
        service.close()
