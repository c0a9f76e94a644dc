"""What changed in a clone is undone: it is entry by entry what a fresh clone of its stack is."""

from __future__ import annotations

import fcntl
import itertools
import mmap
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, given, settings

from reflayer.archive.undo import undo
from reflayer.copy import copy_tree, remove_tree
from reflayer.copy.folder import folder_key
from reflayer.errors import OperationError
from tests.archive.test_random_changes import EDITS, Edit, edit, rewrite
from tests.copy import hard_cases
from tests.file_systems import require, require_root
from tests.random_stacks import STACKS, make_stack
from tests.random_trees import TREES, Tree, make_tree
from tests.trees import Facts, assert_same, facts

_numbers = itertools.count()
KINDS = ["xfs", "ext4", "btrfs"]
IMMUTABLE, APPEND, NODUMP = 0x10, 0x20, 0x40


@pytest.fixture(params=KINDS)
def here(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Path:
    """A new empty folder on each file system where times tell all."""
    return place_on(request.param)


def told(root: Path) -> Mapping[bytes, Facts]:
    return facts(root, atime=False, holes=True)


def cloned(source: Path | list[Path], clone: Path) -> int:
    """Clone, and return when that was complete."""
    copy_tree(source, clone)
    time.sleep(0.02)
    return time.clock_gettime_ns(5)  # CLOCK_REALTIME_COARSE, which stamps inodes


def check(clone: Path, source: Path | list[Path], before: Mapping[bytes, Facts], at: int) -> None:
    """Undo what changed, and compare with what the clone was and with a fresh one."""
    undo(clone, source, at, held=frozenset())
    assert_same(before, told(clone))
    fresh = clone.with_name("fresh")
    copy_tree(source, fresh)
    assert_same(told(fresh), told(clone))
    remove_tree(fresh)


def chattr(path: Path, flag: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, flag.to_bytes(8, "little"))
    os.close(fd)


@pytest.fixture
def source(here: Path) -> Path:
    """A tree with something of each kind."""
    tree = here / "source"
    (tree / "a/b/c").mkdir(parents=True)
    (tree / "other/b").mkdir(parents=True)
    for name in ("a/file", "a/b/file", "a/b/c/file", "other/file", "other/b/file", "top"):
        (tree / name).write_text(f"content of {name}")
    os.link(tree / "a/b/file", tree / "other/twin")
    os.link(tree / "a/b/file", tree / "twin")
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "a/fifo")
    os.mknod(tree / "a/device", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    with open(tree / "a/holes", "wb") as file:
        file.truncate(1 << 20)
        os.pwrite(file.fileno(), b"x", 1 << 19)
    os.setxattr(tree / "a/file", "user.name", b"value")
    os.setxattr(tree / "a", hard_cases.DEFAULT, hard_cases.SOME_ACL)
    os.chown(tree / "other", 5, 6)
    (tree / "other").chmod(0o2775)
    for path in tree.rglob("*"):
        os.utime(path, ns=(1_000_000_007, 2_000_000_011), follow_symlinks=False)
    return tree


CHANGES = {
    "nothing": "",
    "a file is written": '(c / "a/file").write_text("changed")',
    "a file is written in secret": 'rewrite(os.fsencode(c / "a/b/c/file"))',
    "a file is made": '(c / "a/b/new").write_text("new")',
    "a file is deleted": '(c / "a/b/c/file").unlink()',
    "a folder is made": '(c / "a/new/below").mkdir(parents=True)',
    "a folder is deleted": 'shutil.rmtree(c / "a/b")',
    "all is deleted": 'subprocess.check_call(["find", c, "-mindepth", "1", "-delete"])',
    "a folder is renamed": '(c / "a").rename(c / "z")',
    "a folder is renamed deep": '(c / "a/b/c").rename(c / "other/c")',
    "folders change places": """
        (c / "a").rename(c / "x")
        (c / "other").rename(c / "a")
        (c / "x").rename(c / "other")
    """,
    "folders of one name change places": """
        (c / "a/b").rename(c / "x")
        (c / "other/b").rename(c / "a/b")
        (c / "x").rename(c / "other/b")
    """,
    "a folder replaces its own parent": """
        (c / "a/b").rename(c / "x")
        shutil.rmtree(c / "a")
        (c / "x").rename(c / "a")
    """,
    "a file replaces a folder": 'shutil.rmtree(c / "a"); (c / "a").write_text("x")',
    "a folder replaces a file": '(c / "top").unlink(); (c / "top/in").mkdir(parents=True)',
    "a link replaces a folder": '(c / "a").rename(c / "x"); (c / "a").symlink_to("/etc")',
    "a name of several goes": '(c / "twin").unlink()',
    "a name of several is moved": '(c / "twin").rename(c / "a/moved")',
    "a name is added": 'os.link(c / "top", c / "a/another")',
    "a name is added to several": 'os.link(c / "twin", c / "a/another")',
    "one of several is written": '(c / "twin").write_text("changed")',
    "a name of several is replaced": '(c / "twin").unlink(); (c / "twin").write_text("x")',
    "a folder with a name of several moves": '(c / "other").rename(c / "a/other")',
    "a folder with a name of several moves out": '(c / "other").rename(c.parent / "out")',
    "a name is added outside": 'os.link(c / "top", c.parent / "outside")',
    "a mode": '(c / "a/file").chmod(2541)',
    "a folder's mode": '(c / "a/b").chmod(960)',
    "an owner": 'os.chown(c / "a/b", 7, 8)',
    "a link's owner": 'os.chown(c / "link", 7, 8, follow_symlinks=False)',
    "an attribute": 'os.setxattr(c / "a/b/c/file", "user.own", b"x")',
    "an attribute goes": 'os.removexattr(c / "a/file", "user.name")',
    "a folder's attribute": 'os.setxattr(c / "other", "trusted.own", b"x")',
    "the root's attribute": 'os.setxattr(c, "user.own", b"x")',
    "the root's mode and times": "c.chmod(1472); os.utime(c, ns=(5, 6))",
    "a folder's ACL": 'os.setxattr(c / "a/b", hard_cases.DEFAULT, hard_cases.SOME_ACL)',
    "an ACL goes": 'os.removexattr(c / "a", hard_cases.DEFAULT)',
    "a folder's times": 'os.utime(c / "a/b", ns=(5, 6))',
    "the root's ACL and group": """
        os.chown(c, 0, 77)
        c.chmod(1535)
        os.setxattr(c, hard_cases.DEFAULT, hard_cases.SOME_ACL)
        (c / "top").unlink()
    """,
    "a hole is filled": """
        with open(c / "a/holes", "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
    """,
    "a device": """
        (c / "a/device").unlink()
        os.mknod(c / "a/device", stat.S_IFCHR, os.makedev(1, 5))
    """,
    "a fifo": '(c / "a/fifo").chmod(511)',
    "a socket": '_socket(c / "a/socket")',
    "an immutable file": 'chattr(c / "a/file", IMMUTABLE)',
    "an immutable folder": 'chattr(c / "a/b", IMMUTABLE)',
    "a file to append to": '(c / "new").touch(); chattr(c / "new", APPEND)',
    "an immutable tree": """
        (c / "new/in").mkdir(parents=True)
        (c / "new/in/file").touch()
        chattr(c / "new/in/file", IMMUTABLE)
        chattr(c / "new/in", APPEND)
        chattr(c / "new", IMMUTABLE)
    """,
    "a flag": 'chattr(c / "a/b/c", NODUMP); (c / "a/b/c/file").unlink()',
    "a root's flag": 'chattr(c, NODUMP); (c / "top").unlink()',
    "a store to a mapped file": '_map(c / "a/file", 7)',
    "names from everywhere": 'for n in range(256): (c / "a" / f"{n}").touch()',
}
"""What is done to a clone, ``c``."""


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, suppress(OSError):
        one.bind(f"/proc/self/fd/{(fd := os.open(path.parent, os.O_RDONLY))}/{path.name}")
        os.close(fd)


def _map(path: Path, byte: int) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        assert mapped[0] != byte
        mapped[0] = byte


TOOLS = {
    tool.__name__: tool
    for tool in (os, shutil, stat, subprocess, hard_cases, rewrite, chattr, _map, _socket)
} | {"hard_cases": hard_cases, "IMMUTABLE": IMMUTABLE, "APPEND": APPEND, "NODUMP": NODUMP}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_undone(source: Path, change: str) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    exec(dedent(CHANGES[change]), {"c": clone, **TOOLS})
    check(clone, source, before, at)


def test_what_was_cut_off_is_finished_by_the_next(source: Path) -> None:
    """Whatever was done by then has a late ctime, as if the user had done it."""
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    (clone / "other").rename(clone / "z")
    (clone / "twin").unlink()
    for made in ("a/b", "a/b/new", ".reflayer-links-0"):  # as far as some other try came
        (clone / made).mkdir(exist_ok=True)
    shutil.rmtree(clone / "a/b")
    (clone / "a").chmod(0o700)
    os.removexattr(clone / "a", hard_cases.DEFAULT)
    check(clone, source, before, at)
    time.sleep(0.02)  # that clock stands still for a tick
    later = time.clock_gettime_ns(5)
    (clone / "other/b/file").unlink()
    assert undo(clone, source, later) == 1
    assert_same(before, told(clone))


def test_a_folder_gets_its_setgid_bit_back_where_chown_takes_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "other").chmod(0o2755)
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    os.chown(clone / "other", 12, 34)
    chown = os.chown

    def chown_of_old(fd: int, user: int, group: int) -> None:  # xfs_setattr_nonsize, to Linux 5.17
        chown(fd, user, group)
        os.chmod(fd, os.fstat(fd).st_mode & 0o1777)

    monkeypatch.setattr(os, "chown", chown_of_old)
    check(clone, source, before, at)


def test_where_a_folder_is_known_it_stays_and_all_in_it(source: Path) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    known = _known(source, clone, ["a", "other", "a/b"])
    (clone / "new").touch()
    (clone / "a/new").touch()
    (clone / "other").rename(clone / "x")
    (clone / "other").mkdir()
    stays = (clone / "a/file").stat().st_ino
    # Of two hard links that the folder which is made anew takes with it, all names are made.
    assert undo(clone, source, at, known=known) == len(["other", "b", "file", "b/file", *"123"])
    assert (clone / "a/file").stat().st_ino == stays
    assert_same(before, told(clone))


def test_a_known_folder_in_the_place_of_another_goes(source: Path) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    known = _known(source, clone, ["a", "other"])
    (clone / "a").rename(clone / "x")
    (clone / "other").rename(clone / "a")
    (clone / "x").rename(clone / "other")
    undo(clone, source, at, known=known)
    assert_same(before, told(clone))


def test_what_others_have_open_is_an_error_where_nobody_may(source: Path) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    (clone / "top").write_text("changed")
    for name, flags in (
        ("a/file", os.O_RDONLY),
        ("twin", os.O_WRONLY),
        ("other/b/file", os.O_RDWR),
    ):
        fd = os.open(clone / name, flags)
        with pytest.raises(OperationError, match=f"{name}: .* a process has it open"):
            undo(clone, source, at, held=frozenset())
        os.close(fd)
    with open(clone / "a/file", "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with pytest.raises(OperationError, match=r"a/file: .* a process has it open"):
        undo(clone, source, at, held=frozenset())
    assert undo(clone, source, at) == 1  # as where it is undone in place
    assert_same(before, told(clone))
    mapped.close()
    inode = (clone / "a/b").stat().st_ino
    with pytest.raises(OperationError, match=r"a/b: .* a process has it open"):
        undo(clone, source, at, held={inode})


def test_who_looks_at_one_name_is_nobody_who_has_the_other_open(source: Path) -> None:
    for number in range(300):
        (source / f"many/{number}/in").mkdir(parents=True)
        os.link(source / "top", source / f"many/{number}/in/link")
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    for turn in range(5):
        (clone / f"many/{turn}/new").write_text("new")
        undo(clone, source, at, held=frozenset(), workers=4)
        assert_same(before, told(clone))
    with open(clone / "many/9/in/link"), pytest.raises(OperationError, match="has it open"):
        undo(clone, source, at, held=frozenset(), workers=4)
    (clone / "many/8/in/link").write_text("changed")
    undo(clone, source, at, held=frozenset(), workers=4)
    assert_same(before, told(clone))


def test_what_goes_may_be_open(source: Path) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    before = told(clone)
    with open(clone / "a/file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 7
        check(clone, source, before, at)
        mapped[0] = 8
        file.write(b"more")
    assert_same(before, told(clone))


def test_a_stack_that_has_changed_is_an_error(source: Path) -> None:
    clone = source.with_name("clone")
    at = cloned(source, clone)
    (source / "a/b/file").rename(source / "a/b/moved")
    (clone / "a/b/new").touch()
    with pytest.raises(OperationError, match=r"a/b/file: .* the layers below were changed"):
        undo(clone, source, at)


def test_the_hard_cases_come_back(here: Path) -> None:
    source, clone = here / "source", here / "clone"
    source.mkdir()
    cases = dict(hard_cases.CASES)
    if here.parent.name != "xfs":
        del cases["a_tebibyte_of_nothing"]
    hard_cases.build(os.fsencode(source), cases)
    at = cloned(source, clone)
    before = told(clone)
    for number, case in enumerate(sorted(clone.iterdir())):
        if number % 3 == 0:
            subprocess.run(["rm", "-rf", case], check=True)
        elif number % 3 == 1:
            case.rename(case.with_name(f"{case.name}-moved"))
    check(clone, source, before, at)
    at = time.clock_gettime_ns(5)
    for path in sorted(clone.glob("*/*")):
        kind = stat.S_IFMT(path.lstat().st_mode)
        if path.name[-1:] in "0f" and kind != stat.S_IFDIR:
            path.unlink()
        elif path.name[-1:] in "1e" and kind == stat.S_IFREG:
            path.chmod(0o777)
    check(clone, source, before, at)
    at = time.clock_gettime_ns(5)
    deep = clone / "folders_nested_thousands_deep"
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(2001):
        above, fd = fd, os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(above)
    os.unlink("file", dir_fd=fd)
    os.mkdir("new", dir_fd=fd)
    os.close(fd)
    check(clone, source, before, at)


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_are_undone(file_system: Callable[[str], Path], kind: str) -> None:
    require_root()
    place = file_system(kind)

    @settings(
        max_examples=80, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(TREES, EDITS)
    def try_it(tree: Tree, edits: list[Edit]) -> None:
        here = place / f"undo-{next(_numbers)}"
        source, clone = here / "source", here / "clone"
        try:
            source.mkdir(parents=True)
            make_tree(os.fsencode(source), tree, [])
            at = cloned(source, clone)
            before = told(clone)
            known = _some_known(source, clone) if len(edits) % 2 else {}
            for one in edits:
                edit(os.fsencode(clone), *one)
            undo(clone, source, at, known=known, held=frozenset())
            assert_same(before, told(clone))
        finally:
            remove_tree(here)

    try_it()


@pytest.mark.parametrize("kind", KINDS)
def test_random_changes_of_clones_of_stacks_are_undone(
    file_system: Callable[[str], Path], kind: str
) -> None:
    require_root()
    require("mount")
    place = file_system(kind)

    @settings(
        max_examples=40, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(STACKS, EDITS)
    def try_it(stack: tuple[Tree, list[list[Edit]]], edits: list[Edit]) -> None:
        here = place / f"undo-{next(_numbers)}"
        clone = here / "clone"
        try:
            here.mkdir()
            layers = make_stack(here / "stack", *stack)
            folders: list[int] = []
            copy_tree(layers, clone, folders=folders)
            time.sleep(0.02)
            at = time.clock_gettime_ns(5)
            known = dict(zip(folders[::2], folders[1::2], strict=True))
            before = told(clone)
            for one in edits:
                edit(os.fsencode(clone), *one)
            undo(clone, layers, at, known=known, held=frozenset())
            assert_same(before, told(clone))
            there = {p.stat().st_ino for p in clone.rglob("*") if not p.is_symlink() and p.is_dir()}
            assert {*known.values()} == there
        finally:
            remove_tree(here)

    try_it()


def _known(source: Path, clone: Path, names: list[str]) -> dict[int, int]:
    return {
        folder_key(0, os.stat(source / name).st_ino): os.stat(clone / name).st_ino for name in names
    }


def _some_known(source: Path, clone: Path) -> dict[int, int]:
    folders = [path for path in clone.rglob("*") if not path.is_symlink() and path.is_dir()]
    return _known(source, clone, [str(path.relative_to(clone)) for path in folders[::2]])
