"""The method: the best that works, decided once, lowered only where it is not supported."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import copy_tree
from reflayer.copy import CopyError
from reflayer.copy import method as method_module
from reflayer.copy.method import Method
from reflayer.linux.names import native
from reflayer.walk.facts import SizeChangedError
from tests.copy.hard_cases import no_cow
from tests.file_systems import mounted, require
from tests.trees import assert_same, facts

_MIB = 1 << 20


def _fill(folder: Path, files: int = 3) -> None:
    folder.mkdir()
    for number in range(files):
        (folder / f"file {number}").write_bytes(os.urandom(100_000))


@pytest.mark.parametrize(
    ("kind", "method"),
    [("xfs", "reflink"), ("btrfs", "reflink"), ("ext4", "range"), ("tmpfs", "range")],
)
def test_auto_takes_the_best_that_works(
    place_on: Callable[[str], Path], kind: str, method: str
) -> None:
    place = place_on(kind)
    _fill(place / "src")

    report = copy_tree(place / "src", place / "dst")

    assert (report.method, report.bytes) == (method, {method: 300_000})


@pytest.mark.parametrize(
    ("src", "dst", "method"),
    [
        ("ext4", "ext4", "reflink"),
        ("tmpfs", "tmpfs", "reflink"),
        ("xfs", "btrfs", "reflink"),
        ("ext4", "tmpfs", "range"),
        ("xfs", "ext4", "range"),
    ],
)
def test_a_named_method_that_cannot_work_is_an_error_before_anything_is_made(
    place_on: Callable[[str], Path], src: str, dst: str, method: str
) -> None:
    here, there = place_on(src), place_on(dst)
    _fill(here / "src")
    (there / "empty").mkdir()
    before = facts(there)

    for name in ("new", "empty"):
        with pytest.raises(CopyError, match=f"{name}: {method}: .*does not work here"):
            copy_tree(here / "src", there / name, method=method)

    assert_same(before, facts(there))


def test_a_method_is_tried_once_for_a_pair_of_file_systems(place_on: Callable[[str], Path]) -> None:
    require("strace")
    here, there = place_on("ext4"), place_on("tmpfs")
    _fill(here / "src", 50)
    command = [sys.executable, "-c", "import sys; from reflayer.copy import copy_tree; copy_tree("]
    command[-1] += "sys.argv[1], sys.argv[2], workers=1)"
    trace = subprocess.run(
        [
            "strace",
            "-f",
            "-e",
            "trace=ioctl,copy_file_range",
            *command,
            here / "src",
            there / "dst",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stderr

    # Where the part in C meets the answer, Python asks once more, and decides.
    most = 1 if native is None else 2
    assert 0 < len(re.findall("FICLONE", trace)) <= most
    assert 0 < len(re.findall(r"copy_file_range\(", trace)) <= most


def test_two_files_that_cannot_share_blocks_do_not_lower_the_method_for_others(
    place_on: Callable[[str], Path],
) -> None:
    place = place_on("btrfs")
    (place / "src").mkdir()
    for number in range(20):
        with open(place / f"src/{number}", "xb") as file:
            if number % 2:
                no_cow(file.fileno())
            file.write(os.urandom(10_000))

    report = copy_tree(place / "src", place / "dst")

    assert report.bytes == {"reflink": 100_000, "range": 100_000}
    assert report.method == "reflink"


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_clone_by_reflink_takes_no_data_blocks(
    place_on: Callable[[str], Path], kind: str
) -> None:
    place = place_on(kind)
    (place / "src").mkdir()
    (place / "src/file").write_bytes(os.urandom(64 * _MIB))
    subprocess.run(["sync", "-f", place], check=True)
    before = os.statvfs(place).f_bfree

    copy_tree(place / "src", place / "dst", method="reflink")

    subprocess.run(["sync", "-f", place], check=True)
    status = os.statvfs(place)
    assert (before - status.f_bfree) * status.f_frsize < 4 * _MIB


@pytest.mark.parametrize("method", ["range", "stream", "tar"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_an_error_and_the_space_comes_back(
    place_on: Callable[[str], Path], tmp_path: Path, method: str, workers: int
) -> None:
    with mounted("ext4", tmp_path, 64 * _MIB) as small:
        src = small / "src" if method == "range" else place_on("tmpfs") / "src"
        for number in range(16 if method == "range" else 40):
            (src / f"folder {number}").mkdir(parents=True)
            (src / f"folder {number}/file").write_bytes(os.urandom(2 * _MIB))
        subprocess.run(["sync", "-f", small], check=True)
        before = os.statvfs(small).f_bfree
        (small / "empty").mkdir()

        for name in ("new", "empty"):
            with pytest.raises(CopyError) as caught:
                copy_tree(src, small / name, method=method, workers=workers)
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.path.startswith(f"{small / name}/")

        assert not (small / "new").exists()
        assert os.listdir(small / "empty") == []
        subprocess.run(["sync", "-f", small], check=True)
        assert before - os.statvfs(small).f_bfree < 100


def _pair(place: Path, size: int) -> tuple[int, int]:
    (place / "one").write_bytes(os.urandom(size))
    src = os.open(place / "one", os.O_RDWR)
    return src, os.open(place / "two", os.O_RDWR | os.O_CREAT)


@pytest.mark.parametrize("method", ["reflink", "range", "stream"])
@pytest.mark.parametrize("size", [0, 1, 50_000, 150_000])
def test_a_file_whose_size_changes_is_an_error_and_no_loop(
    place_on: Callable[[str], Path], method: str, size: int
) -> None:
    src, dst = _pair(place_on("xfs"), 100_000)
    status = os.fstat(src)
    os.ftruncate(src, size)  # after it was looked at

    with pytest.raises(SizeChangedError):
        Method(method).copy(src, dst, status.st_size, status.st_dev)

    os.close(src)
    os.close(dst)


@pytest.mark.parametrize("method", ["range", "stream"])
def test_a_file_that_shrinks_between_its_parts_is_an_error_and_no_loop(
    place_on: Callable[[str], Path], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_on("ext4")
    src, dst = _pair(place, 0)
    for part in range(8):
        os.pwrite(src, b"x" * 4096, part * _MIB)
    size = os.fstat(src).st_size
    name = "_copy_file_range" if method == "range" else "_stream_extent"
    move = getattr(method_module, name)

    def shrinks(*arguments: int) -> int:
        moved: int = move(*arguments)
        os.ftruncate(src, 4096)
        return moved

    monkeypatch.setattr(method_module, name, shrinks)
    if method == "stream":
        monkeypatch.setitem(
            method_module._MOVE,
            "stream",
            lambda src, dst, size, pause: method_module._extents(src, dst, size, shrinks, pause),  # type: ignore[arg-type]
        )

    with pytest.raises(SizeChangedError):
        Method(method).copy(src, dst, size, 1)

    os.close(src)
    os.close(dst)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG])
def test_what_is_about_the_data_or_its_room_does_not_lower_the_method(
    place_on: Callable[[str], Path], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, dst = _pair(place_on("xfs"), 10)

    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setitem(method_module._MOVE, "reflink", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        Method("auto").copy(src, dst, 10, 1)

    os.close(src)
    os.close(dst)


@pytest.mark.parametrize(
    ("method", "number"),
    [
        *(("reflink", number) for number in (95, 25, 18, 38, 22, 26, 1, 13, 12)),
        *(("range", number) for number in (95, 18, 38, 22, 26, 1, 13, 12)),
    ],
)
def test_every_other_answer_does_for_the_file_or_for_all(
    place_on: Callable[[str], Path], method: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    src, dst = _pair(place_on("xfs"), 10)
    tried = 0

    def fails(*_: object) -> int:
        nonlocal tried
        tried += 1
        raise OSError(number, os.strerror(number))

    def cannot(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    if method == "range":
        monkeypatch.setitem(method_module._MOVE, "reflink", cannot)
    monkeypatch.setitem(method_module._MOVE, method, fails)
    content = Method("auto")
    below = {"reflink": "range", "range": "stream"}[method]
    for _ in range(3):
        content.copy(src, dst, 10, 1)
    assert content.moved == {below: 30}
    assert tried == (1 if number in method_module._NOT_SUPPORTED[method] else 3)

    with pytest.raises(OSError, match=os.strerror(number)):
        Method(method).copy(src, dst, 10, 1)
    os.close(src)
    os.close(dst)


@pytest.mark.parametrize("method", ["auto", "tar"])
def test_a_swap_file_in_use_is_read_and_written(
    place_on: Callable[[str], Path], method: str
) -> None:
    require("mkswap", "swapon", "swapoff")
    place = place_on("xfs")
    _fill(place / "src")
    swap = place / "src/swap"
    swap.write_bytes(bytes(_MIB))
    swap.chmod(0o600)
    subprocess.run(["mkswap", "-q", swap], check=True)
    if subprocess.run(["swapon", swap], capture_output=True).returncode:
        pytest.skip("this machine does not take a swap file")
    try:
        report = copy_tree(place / "src", place / "dst", method=method)
    finally:
        subprocess.run(["swapoff", swap], check=True)

    assert_same(facts(place / "src"), facts(place / "dst"))
    assert method == "tar" or report.bytes["reflink"] == 300_000


@pytest.mark.parametrize("source", ["/proc/version", "/sys/kernel/uevent_seqnum"])
def test_content_that_a_size_does_not_tell_is_read(tmp_path: Path, source: str) -> None:
    """As proc(5) says of each file that it is empty, and sysfs that it has a page."""
    expected = Path(source).read_bytes()
    src, dst = os.open(source, os.O_RDONLY), os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    status = os.fstat(src)
    assert status.st_size != len(expected)

    Method("auto").copy(src, dst, status.st_size, status.st_dev)

    assert os.pread(dst, 1 << 16, 0) == expected
    with pytest.raises(OSError):  # each file system has a number of its own
        Method("reflink").copy(src, dst, status.st_size, status.st_dev)
    os.close(src)
    os.close(dst)
