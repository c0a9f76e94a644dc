"""The functions in C do what is ordinary, and hand back everything else as it was."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reflayer.copy.entries import _waiting_name
from tests.file_systems import mounted, require, require_native, require_root
from tests.trees import assert_same, facts

UNKNOWN, FIFO, DEVICE, FOLDER, BLOCK, FILE, LINK, SOCKET = 0, 1, 2, 4, 6, 8, 10, 12
"""``d_type`` of getdents64(2)."""

REFLINK, RANGE, STREAM = 0, 1, 2
LINKED = 253
"""As the type of a name: nothing is left to do, but its inode has several names."""
HELD = 252
"""As the type of a name: it is as it was, but somebody has it open."""
LONG = b"\xff" * 255
LARGEST = 4 << 20  # what is moved in C at once

NOTHING = (0, 0, 0, 0, 0, b"")
"""The facts of ``measure_names`` where it met nothing that is ordinary."""

Result = tuple[Any, list[bytes], list[tuple[int, bytes]], bytes | None]


@pytest.fixture(scope="module", autouse=True)
def native() -> Any:
    """The part in C."""
    require_native()
    import reflayer.linux._names as names

    return names


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """An empty folder to clone from."""
    folder = tmp_path / "src"
    folder.mkdir()
    return folder


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    """An empty folder to clone into."""
    folder = tmp_path / "dst"
    folder.mkdir()
    return folder


@contextmanager
def opened(*folders: Path) -> Iterator[list[int]]:
    """Their descriptors."""
    fds = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def entry(kind: int, name: bytes) -> bytes:
    """What getdents64(2) tells of a name."""
    size = (19 + len(name) + 1 + 7) // 8 * 8
    return struct.pack("=QqHB", 1, 1, size, kind) + name.ljust(size - 19, b"\0")


def in_turns(call: Callable[[bytes], Result]) -> tuple[list[Any], list[bytes], dict[bytes, int]]:
    """The facts of each call, the folders, and the type of each name that is handed back."""
    told, folders, rest = [], [], {}
    left: bytes | None = b""
    while left is not None:
        fact, more, handed, left = call(left)
        told.append(fact)
        folders += more
        rest.update({name: kind for kind, name in handed})
    return told, folders, rest


def changed(
    native: Any, folder: int, until: int = 1 << 62, left: bytes = b"", *, asks: bool = False
) -> Result:
    """What ``changed_names`` tells of one open folder, as the others do."""
    [told], left_now = native.changed_names(folder, (b"",), until, asks, left)
    if isinstance(told, int):
        raise OSError(told, os.strerror(told))
    return told[:2], *told[2:], left_now


def cloner(
    native: Any,
    src: int,
    dst: int,
    method: int = STREAM,
    *,
    uid: int = -1,
    leave: bytes = b"",
    waiting: int = -1,
) -> Callable[[bytes], Result]:
    """``clone_names`` from ``src`` into ``dst``, for this process."""
    umask = os.umask(0o022)
    os.umask(umask)
    owner = os.geteuid() if uid < 0 else uid
    return lambda left: native.clone_names(
        src, dst, waiting, method, owner, os.getegid(), b"", b"", umask, 0o700, leave, left
    )


def clone(native: Any, src: Path, dst: Path, **options: Any) -> tuple[int, dict[bytes, int]]:
    """How many files, and what is handed back."""
    with opened(src, dst) as fds:
        told, _, rest = in_turns(cloner(native, fds[0], fds[1], **options))
    return sum(files for files, *_ in told), rest


# --- what is ordinary


@pytest.mark.parametrize(
    ("kind", "method"),
    [("xfs", REFLINK), ("btrfs", REFLINK), ("ext4", RANGE), ("tmpfs", RANGE), ("tmpfs", STREAM)],
)
def test_ordinary_files_and_links_are_cloned_whole(
    place_on: Callable[[str], Path], native: Any, kind: str, method: int
) -> None:
    src, dst = place_on(kind), place_on(kind)
    (src / "empty").touch()
    (src / os.fsdecode(LONG)).write_bytes(bytes(range(256)) * 1000)
    (src / "nothing for anyone").write_bytes(b"secret")
    os.chmod(src / "nothing for anyone", 0)
    (src / "for everyone").write_bytes(b"x")
    os.chmod(src / "for everyone", 0o777)
    os.chown(src / "for everyone", 1234, 4_000_000_000)
    with open(src / "holes", "wb") as file:
        file.truncate(LARGEST)
        os.pwrite(file.fileno(), b"data", 1 << 20)
    (src / "only a hole").touch()
    os.truncate(src / "only a hole", 1 << 20)
    os.symlink("t" * 1000, src / "link")
    os.chown(src / "link", 1234, 5678, follow_symlinks=False)
    for path in src.iterdir():
        os.utime(path, ns=(1_000_000_001, -2_000_000_003), follow_symlinks=False)
    before = facts(src, holes=True)
    before.pop(b".")

    (src / "folder").mkdir()
    with opened(src, dst) as fds:
        told, folders, rest = in_turns(cloner(native, fds[0], fds[1], method))

    files, again, links, _, size = (sum(counts) for counts in zip(*told, strict=True))
    assert (files, again, links, folders, rest) == (6, 0, 1, [b"folder"], {})
    assert size == 256_000 + 6 + 1 + LARGEST + (1 << 20)
    assert stat.S_IMODE(os.stat(dst / "folder").st_mode) == 0o700
    os.rmdir(dst / "folder")
    after = facts(dst, holes=True)
    after.pop(b".")
    assert_same(before, after)


def test_names_that_are_to_be_left_are_handed_back(src: Path, dst: Path, native: Any) -> None:
    for name in ("a", "ab", "b"):
        (src / name).touch()
    assert clone(native, src, dst, leave=b"\0ab\0") == (2, {b"ab": FILE})
    assert sorted(os.listdir(dst)) == ["a", "b"]


def test_a_folder_of_many_names_is_done_in_turns(
    place_on: Callable[[str], Path], native: Any
) -> None:
    count = 50_000
    with opened(place_on("tmpfs"), place_on("tmpfs")) as (source, clone):
        for number in range(count):
            os.mknod(f"{number}", 0o600 | stat.S_IFREG, dir_fd=source)
        told, _, rest = in_turns(cloner(native, source, clone))
        assert (sum(files for files, *_ in told), rest) == (count, {})
        assert max(files for files, *_ in told) < 1000
        os.lseek(source, 0, os.SEEK_SET)
        removed, _, rest = in_turns(lambda left: native.unlink_names(source, left))
        assert (sum(removed), rest) == (count, {})
        assert os.listdir(source) == []

        def interrupt(*_: object) -> None:
            raise InterruptedError

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(InterruptedError):
                in_turns(lambda left: native.unlink_names(clone, left))
        finally:
            signal.signal(signal.SIGALRM, before)
        assert len(os.listdir(clone)) > count // 10


def test_what_a_turn_did_not_come_to_is_left_for_the_next(
    src: Path, dst: Path, native: Any
) -> None:
    for number in range(40):
        (src / f"{number}").write_bytes(bytes(LARGEST))
    with opened(src, dst) as fds:
        told, _, rest = in_turns(cloner(native, *fds))
    assert [sum(counts) for counts in zip(*told, strict=True)] == [40, 0, 0, *[40 * LARGEST] * 2]
    assert len(told) > 2
    assert rest == {}


def test_a_file_of_several_names_is_made_once(src: Path, dst: Path, native: Any) -> None:
    (src / "in").mkdir()
    (dst / "in").mkdir()
    (dst / "waiting").mkdir()
    for number, names in enumerate(([b"a", b"in/b"], [b"c", b"d", b"in/e", b"in/f"], [b"in/g"])):
        path = src / os.fsdecode(names[0])
        path.write_bytes(b"content %d" % number)
        for name in names[1:]:
            os.link(path, src / os.fsdecode(name))
    os.link(src / "in/g", src.parent / "outside")
    before = facts(src)
    before[b"in/g"] = before[b"in/g"]._replace(links=1)
    in_all = [0, 0, 0]
    with opened(src, dst, src / "in", dst / "in", dst / "waiting") as (*fds, waiting):
        for one, other in (fds[:2], fds[2:]):
            told, _, rest = in_turns(cloner(native, one, other, leave=b"\0in\0", waiting=waiting))
            in_all = [sum(counts) for counts in zip(in_all, *told, strict=False)]
            assert set(rest) <= {b"in"}
        assert in_all == [3, 4, 0]
        # One that all names were found of waits no more.
        assert os.listdir(waiting) == [os.fsdecode(_waiting_name((src / "in/g").stat()))]
        os.unlink(os.listdir(waiting)[0], dir_fd=waiting)
    os.rmdir(dst / "waiting")
    after = facts(dst)
    for folder in (b".", b"in"):
        del before[folder], after[folder]
    assert_same(before, after)


def test_what_waits_gets_the_names_whoever_has_made_it(src: Path, dst: Path, native: Any) -> None:
    (src / "a").write_bytes(b"content")
    os.link(src / "a", src / "b")
    (dst / "waiting").mkdir()
    made = dst / "waiting" / os.fsdecode(_waiting_name((src / "a").stat()))
    made.touch()
    number = made.stat().st_ino
    with opened(src, dst, dst / "waiting") as (one, other, waiting):
        told, _, rest = in_turns(cloner(native, one, other, waiting=waiting))
    assert ([sum(counts) for counts in zip(*told, strict=True)][:2], rest) == ([0, 2], {})
    assert {(dst / name).stat().st_ino for name in "ab"} == {number}


def test_where_nothing_can_wait_a_file_of_several_names_is_handed_back(
    src: Path, dst: Path, native: Any
) -> None:
    (src / "a").write_bytes(b"content")
    os.link(src / "a", src / "b")
    (dst / "waiting").mkdir()
    with opened(src, dst, dst / "waiting") as (one, other, waiting):
        os.rmdir(dst / "waiting")
        told, _, rest = in_turns(cloner(native, one, other, waiting=waiting))
        assert ([sum(counts) for counts in zip(*told, strict=True)], rest) == (
            [0] * 5,
            {b"a": FILE, b"b": FILE},
        )
        assert os.listdir(other) == []


def test_two_who_meet_the_names_of_a_file_at_once_make_it_once(
    place_on: Callable[[str], Path], native: Any
) -> None:
    place, count = place_on("ext4"), 3000
    for name in ("src/a", "src/b", "dst/a", "dst/b", "dst/waiting"):
        (place / name).mkdir(parents=True)
    for number in range(count):
        (place / f"src/a/{number}").touch()
        os.link(place / f"src/a/{number}", place / f"src/b/{number}")

    def clone_one(name: str) -> Any:
        with opened(place / "src" / name, place / "dst" / name, place / "dst/waiting") as fds:
            return in_turns(cloner(native, *fds[:2], waiting=fds[2]))

    with ThreadPoolExecutor(2) as workers:
        told = [*workers.map(clone_one, "ab")]
    assert [rest for *_, rest in told] == [{}, {}]
    in_all = [sum(counts) for counts in zip(*told[0][0], *told[1][0], strict=True)]
    assert in_all[:2] == [count, count]
    for number in range(count):
        assert (place / f"dst/a/{number}").samefile(place / f"dst/b/{number}")


# --- what is not


def _several_names(path: Path) -> None:
    path.touch()
    os.link(path, path.parent.parent / "other")


def _attribute(path: Path) -> None:
    path.touch()
    os.setxattr(path, "user.reflayer", b"")


def _acl(path: Path) -> None:
    require("setfacl")
    path.touch()
    subprocess.run(["setfacl", "-m", "u:1234:r", path], check=True)


def _of_mode(mode: int, device: int = 0) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        os.mknod(path, mode, device)
        os.chmod(path, stat.S_IMODE(mode))

    return make


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, opened(path.parent) as (folder,):
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, LARGEST + 1)


def _link_of_two_names(path: Path) -> None:
    path.symlink_to("target")
    os.link(path, path.parent.parent / "other", follow_symlinks=False)


NOT_ORDINARY: dict[str, tuple[int, Callable[[Path], None]]] = {
    "several names": (FILE, _several_names),
    "an attribute": (FILE, _attribute),
    "an ACL": (FILE, _acl),
    "setuid": (FILE, _of_mode(stat.S_IFREG | 0o4755)),
    "setgid": (FILE, _of_mode(stat.S_IFREG | 0o2755)),
    "sticky": (FILE, _of_mode(stat.S_IFREG | 0o1644)),
    "large": (FILE, _large),
    "a FIFO": (FIFO, _of_mode(stat.S_IFIFO | 0o644)),
    "a socket": (SOCKET, _socket),
    "a link of two names": (LINK, _link_of_two_names),
}

OF_ROOT: dict[str, tuple[int, Callable[[Path], None]]] = {
    "a character device": (DEVICE, _of_mode(stat.S_IFCHR | 0o644, os.makedev(1, 3))),
    "a whiteout": (DEVICE, _of_mode(stat.S_IFCHR)),
    "a block device": (BLOCK, _of_mode(stat.S_IFBLK | 0o644, os.makedev(7, 0))),
}


@pytest.mark.parametrize("what", [*NOT_ORDINARY, *OF_ROOT])
def test_what_is_not_ordinary_is_handed_back(src: Path, dst: Path, native: Any, what: str) -> None:
    if what in OF_ROOT:
        require_root()
    kind, make = (NOT_ORDINARY | OF_ROOT)[what]
    make(src / what)
    assert clone(native, src, dst) == (0, {os.fsencode(what): kind})
    assert os.listdir(dst) == []


def test_a_link_with_an_attribute_is_handed_back(src: Path, dst: Path, native: Any) -> None:
    require_root()
    (src / "link").symlink_to("target")
    os.setxattr(src / "link", "trusted.reflayer", b"1", follow_symlinks=False)
    assert clone(native, src, dst) == (0, {b"link": LINK})
    assert os.listdir(dst) == []


def test_types_that_the_file_system_does_not_tell_are_handed_back(
    tmp_path: Path, native: Any
) -> None:
    with mounted("ext4", tmp_path, 64 << 20, features="^filetype") as place:
        (place / "dst").mkdir()
        (place / "src/folder").mkdir(parents=True)
        (place / "src/file").touch()
        (place / "src/link").symlink_to("file")
        told = {b"file": UNKNOWN, b"folder": UNKNOWN, b"link": UNKNOWN}
        assert clone(native, place / "src", place / "dst") == (0, told)
        with opened(place / "src") as (folder,):
            assert in_turns(lambda left: native.unlink_names(folder, left))[1:] == ([], told)
            os.lseek(folder, 0, os.SEEK_SET)
            assert changed(native, folder)[1:] == ([b"folder"], [], None)
            os.lseek(folder, 0, os.SEEK_SET)
            measured = in_turns(lambda left: native.measure_names(folder, 1, left))
            assert measured[1:] == ([b"folder"], {b"file": UNKNOWN})
        assert len(os.listdir(place / "src")) == 3


@pytest.mark.parametrize(
    ("real", "told"), [(FILE, LINK), (LINK, FILE), (FIFO, FILE), (FOLDER, FILE), (FOLDER, LINK)]
)
def test_another_type_than_told_is_handed_back(
    src: Path, dst: Path, native: Any, real: int, told: int
) -> None:
    path = src / "name"
    {FILE: path.touch, LINK: lambda: path.symlink_to("/etc/passwd"), FOLDER: path.mkdir}.get(
        real, lambda: os.mkfifo(path)
    )()
    left = entry(told, b"name")
    with opened(src, dst) as fds:
        assert cloner(native, *fds)(left) == ((0, 0, 0, 0, 0), [], [(told, b"name")], b"")
    assert os.listdir(dst) == []


def test_a_file_that_is_written_to_meanwhile_is_handed_back(
    src: Path, dst: Path, native: Any
) -> None:
    (src / "file").write_bytes(bytes(LARGEST))
    code = "import os, sys\nwhile True: os.pwrite(1, b'x', 0)"
    end = time.monotonic() + 60
    with (
        open(src / "file", "r+b") as file,
        subprocess.Popen([sys.executable, "-c", code], stdout=file) as writer,
    ):
        try:
            rest: dict[bytes, int] = {}
            while not rest and time.monotonic() < end:
                (dst / "file").unlink(missing_ok=True)
                _, rest = clone(native, src, dst)
        finally:
            writer.kill()
    assert rest == {b"file": FILE}
    assert os.listdir(dst) == []


def test_files_are_written_back_and_nothing_else(src: Path, native: Any) -> None:
    for name in ("file", "held"):
        (src / name).write_bytes(b"x" * 10_000)
    os.mkfifo(src / "fifo")
    (src / "link").symlink_to("file")
    (src / "folder").mkdir()
    with opened(src) as [folder], open(src / "held", "ab"):
        told = in_turns(lambda left: native.write_back_names(folder, left))
    assert told == ([None], [], {b"fifo": FIFO, b"link": LINK, b"folder": FOLDER})
    with open(src / "file", "ab"):  # its lease was let go of
        pass


def test_a_name_that_vanished_is_handed_back_or_needs_no_unlinking(
    src: Path, dst: Path, native: Any
) -> None:
    for kind in (FILE, LINK):
        left = entry(kind, b"gone")
        handed = [(kind, b"gone")]
        with opened(src, dst) as (source, clone):
            assert cloner(native, source, clone)(left) == ((0, 0, 0, 0, 0), [], handed, b"")
            assert changed(native, source, left=left)[1:] == ([], handed, b"")
            assert native.measure_names(source, 1, left) == (NOTHING, [], handed, b"")
            assert native.measure_names(source, 0, left) == (NOTHING, [], handed, b"")
            assert native.unlink_names(source, left) == (0, [], [], b"")
    assert os.listdir(dst) == []


def test_a_file_that_says_it_is_empty_and_is_not_is_handed_back(dst: Path, native: Any) -> None:
    with opened(Path("/proc/self"), dst) as fds:
        left = entry(FILE, b"status")
        assert cloner(native, *fds)(left) == ((0, 0, 0, 0, 0), [], [(FILE, b"status")], b"")
    assert os.listdir(dst) == []


# --- errors


def test_what_is_there_already_is_handed_back_and_stays(src: Path, dst: Path, native: Any) -> None:
    (src / "file").write_bytes(b"new")
    (src / "link").symlink_to("new")
    (src / "folder").mkdir()
    (dst / "file").write_bytes(b"old")
    (dst / "link").symlink_to("old")
    (dst / "folder").touch()
    told = {b"file": FILE, b"folder": FOLDER, b"link": LINK}
    assert clone(native, src, dst) == (0, told)
    assert (dst / "file").read_bytes() == b"old"
    assert os.readlink(dst / "link") == "old"
    assert (dst / "folder").is_file()


@pytest.mark.parametrize("method", [RANGE, STREAM])
def test_a_file_for_which_the_disk_is_too_full_is_undone(
    tmp_path: Path, native: Any, method: int
) -> None:
    with mounted("tmpfs", tmp_path, LARGEST + (1 << 20)) as place:
        src, dst = place / "src", place / "dst"
        src.mkdir()
        dst.mkdir()
        (src / "large").write_bytes(bytes(LARGEST))
        (src / "small").write_bytes(b"x")
        assert clone(native, src, dst, method=method) == (1, {b"large": FILE})
        assert os.listdir(dst) == ["small"]


def test_a_method_that_does_not_work_here_undoes_the_file(
    place_on: Callable[[str], Path], native: Any
) -> None:
    src, dst = place_on("ext4"), place_on("ext4")
    (src / "file").write_bytes(b"x")
    assert clone(native, src, dst, method=REFLINK) == (0, {b"file": FILE})
    assert os.listdir(dst) == []


def test_what_may_not_be_given_to_its_owner_is_undone(src: Path, dst: Path, native: Any) -> None:
    require_root()
    (src / "file").touch()
    (src / "link").symlink_to("target")
    os.chmod(dst, 0o777)
    with opened(src, dst) as fds:
        os.seteuid(1234)
        try:
            told = in_turns(cloner(native, *fds))
        finally:
            os.seteuid(0)
    assert told[1:] == ([], {b"file": FILE, b"link": LINK})
    assert os.listdir(dst) == []


def test_what_may_not_be_unlinked_is_handed_back(src: Path, native: Any) -> None:
    require_root()
    (src / "file").touch()
    with opened(src) as (folder,):
        os.seteuid(1234)
        try:
            told = in_turns(lambda left: native.unlink_names(folder, left))
        finally:
            os.seteuid(0)
    assert told == ([0], [], {b"file": FILE})
    assert os.listdir(src) == ["file"]


def test_a_folder_that_cannot_be_read_is_an_error(src: Path, dst: Path, native: Any) -> None:
    (src / "file").touch()
    file = os.open(src / "file", os.O_RDONLY)
    with opened(src) as (source,):
        with opened(dst) as (closed,):
            pass
        calls: list[Callable[[int], Result]] = [
            lambda fd: cloner(native, fd, source)(b""),
            lambda fd: native.unlink_names(fd, b""),
            lambda fd: changed(native, fd),
            lambda fd: native.measure_names(fd, 1, b""),
        ]
        for call in calls:
            with pytest.raises(OSError, match="Bad file descriptor"):
                call(closed)
            with pytest.raises(NotADirectoryError):
                call(file)
        os.close(file)
        told = cloner(native, source, closed)(b"")
        assert told == ((0, 0, 0, 0, 0), [], [(FILE, b"file")], None)


@pytest.mark.parametrize(
    "left",
    [
        bytes(1),
        bytes(24),
        bytes(20000),
        entry(FILE, b"name")[:-8],
        entry(FILE, b"name")[:-1] + b"\1",
        entry(FILE, b"name") + b"\0",
        struct.pack("=QqHB", 1, 1, 65528, FILE) + b"name\0",
        struct.pack("=QqHB", 1, 1, 25, FILE) + b"a\0".ljust(6, b"\0"),
        b"no such thing at all, told in words",
    ],
)
def test_left_that_no_call_returned_is_refused(src: Path, native: Any, left: bytes) -> None:
    (src / "name").touch()
    with opened(src) as (folder,):
        for call in (
            lambda: native.unlink_names(folder, left),
            lambda: changed(native, folder, left=left),
            lambda: native.measure_names(folder, 1, left),
            lambda: cloner(native, folder, folder)(left),
        ):
            with pytest.raises(ValueError, match="left is not what a call returned"):
                call()
    assert os.listdir(src) == ["name"]


def test_wrong_arguments_are_refused(native: Any) -> None:
    for function in vars(native).values():
        if not callable(function):
            continue
        with pytest.raises(TypeError):
            function()
        with pytest.raises(TypeError):
            function("folder", *[0] * 10)
    with pytest.raises(OverflowError):
        native.unlink_names(1 << 40, b"")
    with pytest.raises(TypeError):
        native.unlink_names(0, None)
    with pytest.raises(ValueError, match="null"):
        native.openat2(0, b"a\0b", 0, 0, 0)


# --- layers


@pytest.fixture
def layers(src: Path) -> list[Path]:
    """Four that have the folder ``in/it``, which is empty, the topmost first."""
    paths = [src / str(number) / "in/it" for number in range(4)]
    for path in paths:
        path.mkdir(parents=True)
    return paths


@contextmanager
def merged(
    native: Any, layers: list[Path], dst: Path, leave: bytes = b"", avoid: int = 0, device: int = -1
) -> Iterator[Any]:
    """What ``clone_merged`` returns of them, with the names in the folder of each."""
    if device < 0:
        device = layers[0].stat().st_dev
    with opened(dst, *(layer.parents[1] for layer in layers)) as (into, *roots):
        packed = struct.pack(f"{len(roots)}i", *roots)
        result = native.clone_merged(
            packed, b"in/it", avoid, device, into, -1, STREAM, os.geteuid(), os.getegid(),
            b"", b"", 0o022, 0o755, leave,
        )  # fmt: skip
    if result is None:
        assert os.listdir(dst) == []
        yield None
        return
    (files, _, links, folders, size, fds, above), *others = result
    fds = [fd for (fd,) in struct.iter_unpack("i", fds)]
    try:
        for fd, layer in zip(fds, layers, strict=True):
            assert os.path.samestat(os.fstat(fd), layer.stat())
        yield (
            (files, links, folders, size),
            [dict(map(reversed, names)) for names in above],
            *others,
        )
    finally:
        for fd in fds:
            os.close(fd)


JOINED, MADE, DONE = 251, 254, 255
"""As the type of a name: a folder that is one with another above; made here; nothing is left."""


def test_layers_become_one_folder(layers: list[Path], dst: Path, native: Any) -> None:
    top, second, third, low = layers
    for number, layer in enumerate(layers):
        (layer / "same").write_text(str(number))
        (layer / f"only {number}").symlink_to("x")
        (layer / "folder").mkdir()
    for path in (low / "hidden", second / "put back", third / "put back", low / "put back"):
        path.mkdir()
    os.mknod(third / "hidden", stat.S_IFCHR)
    os.mknod(top / "nothing", stat.S_IFCHR)
    (second / "nothing").touch()
    (third / "broken").mkdir()
    (second / "broken").touch()
    (top / "broken").mkdir()
    (low / "broken").mkdir()
    (third / "tmp").mkdir()
    (low / "low").mkdir()
    os.mkfifo(second / "fifo")
    (low / "fifo").touch()
    os.mkfifo(low / "pipe")
    os.setxattr(second, "user.overlay.reflayer.implied", b"y")
    for number in range(100):
        into = dst / str(number)
        into.mkdir()
        with merged(native, layers, into) as (facts, above, folders, rest, left):
            if left is not None:
                continue  # its turn was over: the machine is busy
            assert facts == (1, 4, 5, 1)
            assert above == [
                {b"folder": MADE, b"broken": MADE},
                {b"folder": JOINED, b"put back": MADE, b"fifo": FIFO},
                {b"folder": JOINED, b"put back": JOINED, b"tmp": MADE},
            ]
            assert folders == [b"low"]
            assert sorted(rest) == [(FIFO, b"pipe"), (JOINED, b"folder"), (JOINED, b"put back")]
            break
    assert left is None
    found = {path.name for path in into.iterdir()}
    folders = {"folder", "put back", "tmp", "low", "broken"}
    assert found == {"same", "broken", *(f"only {number}" for number in range(4)), *folders}
    assert (into / "same").read_text() == "0"


def test_layers_that_are_not_ordinary_are_left_alone(
    layers: list[Path], dst: Path, native: Any
) -> None:
    (layers[0] / "name").touch()
    inode = layers[2].stat().st_ino
    for case in ({"leave": b"\0name\0"}, {"avoid": inode}, {"device": 1}, {"avoid": inode}):
        with merged(native, layers, dst, **case) as result:
            assert result is None
    with merged(native, layers * 5, dst) as result:
        assert result is None  # too many
    os.setxattr(layers[1], "user.other", b"y")
    with merged(native, layers, dst) as result:
        assert result is None
    os.removexattr(layers[1], "user.other")
    for name in ("opaque", "reflayer.implied"):
        os.setxattr(layers[1], f"user.overlay.{name}", b"y")
        with merged(native, layers, dst) as result:
            assert result is None
    os.removexattr(layers[1], "user.overlay.opaque")
    for number in range(400):
        (layers[1] / f"one of many {number}").touch()
    with merged(native, layers, dst) as result:
        assert result is None
    shutil.rmtree(layers[1])
    layers[1].symlink_to(layers[0])
    with merged(native, layers, dst) as result:
        assert result is None


def test_what_is_left_of_a_large_layer_is_told_with_all_that_is_above(
    layers: list[Path], dst: Path, native: Any
) -> None:
    for name in range(3000):
        (layers[-1] / f"low {name}").touch()
    (layers[0] / "file").touch()
    os.mknod(layers[1] / "low 7", stat.S_IFCHR)
    with merged(native, layers, dst) as (facts, above, folders, rest, left):
        assert above[0].pop(b"file") in (DONE, FILE)  # its turn may have been over
        assert above[1].pop(b"low 7") == DONE
        assert {name for names in above for name in names} <= {b".", b".."}
        assert left is not None
        assert (folders, rest) == ([], [])
        assert len(os.listdir(dst)) == facts[0] < 3000


# --- the other functions


def test_everything_but_folders_is_unlinked(src: Path, native: Any) -> None:
    (src / "folder/inside").mkdir(parents=True)
    (src / os.fsdecode(LONG)).touch()
    (src / "link").symlink_to("folder")
    os.mkfifo(src / "fifo")
    _socket(src / "socket")
    with opened(src) as (folder,):
        told = in_turns(lambda left: native.unlink_names(folder, left))
    assert told == ([4], [b"folder"], {})
    assert os.listdir(src) == ["folder"]


def test_of_folders_that_are_looked_at_what_was_changed_is_told(src: Path, native: Any) -> None:
    (src / "sub/in").mkdir(parents=True)
    for name in ("free", "open", "several", "late"):
        (src / "sub" / name).touch()
    os.link(src / "sub/several", src / "sub/in/another")
    os.symlink("free", src / "sub/link")
    _wait_for_the_clock(src)
    until = _ctime(src / "since")
    (src / "sub/late").chmod(0o600)
    inside = src / "sub/in"
    paths = (b"sub", b"gone", b"sub/late", b"sub/link", b"..", b"sub/in")
    open_before = len(os.listdir("/proc/self/fd"))
    with opened(src) as (folder,), open(src / "sub/open"):
        plain, left = native.changed_names(folder, paths, until, False, b"")
        asked, left_then = native.changed_names(folder, paths, until, True, b"")
    assert left is left_then is None
    assert len(os.listdir("/proc/self/fd")) == open_before
    status = os.stat(src / "sub")
    for told, more in ((plain, set()), (asked, {(HELD, b"open")})):
        (inode, ctime, folders, rest), *errors, last = told
        assert (inode, ctime, folders) == (status.st_ino, status.st_ctime_ns, [b"in"])
        assert {*rest} == {(FILE, b"late"), (LINKED, b"several")} | more
        assert errors == [errno.ENOENT, errno.ENOTDIR, errno.ENOTDIR, errno.EXDEV]
        assert last == (os.stat(inside).st_ino, _ctime(inside), [], [(LINKED, b"another")])


def test_a_large_folder_has_a_call_of_its_own(src: Path, native: Any) -> None:
    for number in range(20):
        (src / f"small/{number}").mkdir(parents=True)
    (src / "large").mkdir()
    for number in range(1000):
        (src / f"large/{number}").touch()
    with opened(src, src / "large") as (folder, large):
        look = native.changed_names
        told, left = look(folder, (b"small", b"large", b"small"), 0, False, b"")
        assert ([len(one[2]) for one in told], left) == ([20], None)
        told, left = look(folder, (b"large", b"small"), 0, False, b"")
        assert (len(told), left) == (1, b"")
        (first, *_), _, rest = in_turns(lambda left: changed(native, large, 0, left))
        assert (first, len(rest)) == ((os.stat(src / "large").st_ino, _ctime(src / "large")), 1000)
        told, left = look(folder, (b"small",) * 1000, 0, False, b"")
        assert (len(told) < 1000, left) == (True, None)


def _wait_for_the_clock(folder: Path) -> None:
    """Until the clock that ctimes are of, which goes in steps, has gone on."""
    (folder / "since").touch()
    first = _ctime(folder / "since")
    while _ctime(folder / "since") == first:
        (folder / "since").touch()


def _ctime(path: Path) -> int:
    return os.stat(path).st_ctime_ns


def test_what_names_take_is_told(place_on: Callable[[str], Path], native: Any) -> None:
    src = place_on("xfs") / "src"
    (src / "folder").mkdir(parents=True)
    (src / "own").write_bytes(b"x" * 5000)
    (src / "empty").touch()
    (src / "link").symlink_to("own")
    os.mkfifo(src / "fifo")
    (src / "shared").write_bytes(b"x" * 5000)
    subprocess.run(["cp", "--reflink=always", src / "shared", src.parent / "other"], check=True)
    with open(src / "pieces", "wb") as file:
        for piece in range(17):
            file.seek(piece * 65536)
            file.write(b"x" * 4096)
    os.mkfifo(src / "twice")
    os.link(src / "twice", src.parent / "again")
    with opened(src) as (folder,):
        told, folders, rest = in_turns(lambda left: native.measure_names(folder, 1, left))
        inodes, size, allocated, own, untold, shared = told[0]
        assert (len(told), folders, rest) == (1, [b"folder"], {b"pieces": FILE, b"twice": FIFO})
        assert (inodes, size, allocated, own, untold) == (6, 10_000, 16384, 8192, 0)
        assert struct.unpack("=QQ", shared)[1] == 8192
        os.lseek(folder, 0, os.SEEK_SET)
        ((_, _, allocated, own, untold, shared),), _, rest = in_turns(
            lambda left: native.measure_names(folder, 0, left)
        )
        assert allocated == own == untold >= 16384 + 17 * 4096
        assert (shared, rest) == (b"", {b"twice": FIFO})


def test_more_shared_places_than_a_call_has_room_for(
    place_on: Callable[[str], Path], native: Any
) -> None:
    src = place_on("xfs") / "src"
    src.mkdir()
    for number in range(150):
        with open(src / f"{number}", "wb") as file:
            for piece in range(10):
                file.seek(piece * 16384)
                file.write(b"x" * 4096)
    subprocess.run(["cp", "-a", "--reflink=always", src, src.parent / "clone"], check=True)
    with opened(src.parent / "clone") as (folder,):
        told, _, rest = in_turns(lambda left: native.measure_names(folder, 1, left))
    assert len(told) > 1
    assert sum(facts[0] for facts in told) == 150 - len(rest)
    assert rest == {}
    assert sum(len(facts[-1]) for facts in told) == 150 * 10 * 16
    assert sum(facts[3] for facts in told) == 0


def test_folders_are_measured_in_one_call_up_to_one_that_takes_several(
    src: Path, native: Any
) -> None:
    for path in ("a/b", "large"):
        (src / path).mkdir(parents=True)
    os.mkfifo(src / "a/fifo")
    os.link(src / "a/fifo", src / "a/again")
    (src / "a/b/file").write_bytes(b"x")
    for number in range(1000):
        (src / f"large/{number}").touch()
    paths = (b".", b"a", b"a/b", b"large", b"a")
    with opened(src) as (folder,):
        facts, told = native.measure_folders(folder, paths, 0)
        assert native.measure_folders(folder, (b"large",), 0) == (NOTHING, [])
        for wrong in (b"none", b"../src", b"a/b/file"):
            assert native.measure_folders(folder, (wrong, b"a"), 0) == (NOTHING, [])
    assert facts[:2] == (2 + 1 + 1, 1)
    assert [(sorted(folders), sorted(rest)) for folders, rest in told] == [
        ([b"a", b"large"], []),
        ([b"b"], [(FIFO, b"again"), (FIFO, b"fifo")]),
        ([], []),
    ]


def test_an_open_that_waits_lets_other_threads_run(src: Path, native: Any) -> None:
    os.mkfifo(src / "fifo")
    with opened(src) as (folder,):
        writer = threading.Thread(target=lambda: os.close(os.open(src / "fifo", os.O_WRONLY)))
        writer.start()
        os.close(native.openat2(folder, b"fifo", os.O_RDONLY | os.O_CLOEXEC, 0, 0))
        writer.join()
        with pytest.raises(FileNotFoundError):
            native.openat2(folder, b"nothing", os.O_RDONLY, 0, 0)


# --- files out of memory


def made(folder: int, name: bytes, at: int, size: int, mode: int = 0o644) -> tuple[Any, ...]:
    """A file for ``make_files`` with the owners that it is made with."""
    return (folder, name, at, size, mode, 2**32 - 1, 2**32 - 1, 1_000_000_001, 2_000_000_002)


def test_files_are_made_up_to_the_first_that_cannot_be(dst: Path, native: Any) -> None:
    data = bytes(range(1, 256)) * 100 + bytes(4096)
    (dst / "there").write_bytes(b"old")
    (dst / "link").symlink_to("nothing")
    with opened(dst) as (folder,):
        for number, bad in enumerate(
            (
                made(folder, b"there", 0, 1),
                made(folder, b"link", 0, 1),
                made(folder, b"no/such", 0, 1),
                made(folder, LONG + b"x", 0, 1),
                made(folder, b"hole", len(data) - 4096, 4096),
                (folder, b"time", 0, 1, 0o644, 0, 0, 0, -1),
            )
        ):
            good = made(folder, b"good%d" % number, 5, 10_000, 0o777)
            files = (made(folder, b"no/first", 0, 1), good, bad, made(folder, b"after", 0, 1))
            assert native.make_files(data, 0o022, files, 1) == 1
            path = dst / f"good{number}"
            status = path.stat()
            assert path.read_bytes() == data[5:10_005]
            assert stat.S_IMODE(status.st_mode) == 0o777
            assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    assert sorted(os.listdir(dst)) == [*(f"good{n}" for n in range(6)), "link", "there"]
    assert (dst / "there").read_bytes() == b"old"


def test_files_outside_the_data_are_refused(dst: Path, native: Any) -> None:
    with opened(dst) as (folder,):
        for at, size in ((-1, 1), (0, -1), (0, 11), (11, 0), (5, 6), (2**63 - 1, 2**63 - 1)):
            with pytest.raises(ValueError, match="not in the data"):
                native.make_files(
                    bytes(10), 0, (made(folder, b"a", 0, 1), made(folder, b"b", at, size)), 0
                )
        for wrong in (
            (b"a",),
            made(folder, b"a\0b", 0, 1),
            (folder, b"a", 0, 1, 0, 0, 0, 0, 1 << 64),
            "file",
        ):
            with pytest.raises((TypeError, ValueError, OverflowError, SystemError)):
                native.make_files(bytes(10), 0, (wrong,), 0)
    assert os.listdir(dst) == []
