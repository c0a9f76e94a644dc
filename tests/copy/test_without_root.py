"""Without root: what cannot be kept is an error, or left out and counted where that is asked."""

from __future__ import annotations

import errno
import os
import pickle
import stat
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

import reflayer.linux.openat2  # noqa: F401  # the unprivileged child may not read the project
from reflayer import copy_tree
from reflayer.archive import tar_copy  # noqa: F401
from reflayer.copy import CopyError, CopyReport, remove_tree
from reflayer.errors import OperationError
from tests.copy.hard_cases import ACCESS, DEFAULT, SOME_ACL
from tests.trees import Facts, assert_same, facts

_USER = 65534
_Result = TypeVar("_Result")


@pytest.fixture(params=["ext4", "tmpfs", "xfs"])
def place(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Path:
    place = place_on(request.param)
    (place / "home").mkdir()
    os.chown(place / "home", _USER, _USER)
    (place / "src").mkdir(mode=0o755)
    return place


def _as_user(place: Path, do: Callable[[], _Result]) -> _Result:
    """The result of ``do`` in a process without privileges, whose working folder is ``place``."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(place)
            os.setgroups([])
            os.setresgid(_USER, _USER, _USER)
            os.setresuid(_USER, _USER, _USER)
            try:
                result: object = do()
            except CopyError as error:
                result = error
            with open(writing, "wb") as pipe:
                pickle.dump(result, pipe)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    told: _Result | CopyError = pickle.loads(data)
    if isinstance(told, CopyError):
        raise told
    return told


def _owned_by_user(root: Path) -> None:
    for path in (root, *root.glob("**/*")):
        os.chown(path, _USER, _USER, follow_symlinks=False)


METHODS = pytest.mark.parametrize("method", ["auto", "tar"])


@METHODS
@pytest.mark.parametrize("kind", ["owner", "device", "group of a link", "folder"])
def test_what_cannot_be_kept_is_an_error_that_names_it(place: Path, kind: str, method: str) -> None:
    if kind == "device":
        os.mknod(place / "src/name", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    elif kind == "group of a link":
        (place / "src/name").symlink_to("x")
    elif kind == "folder":
        (place / "src/name").mkdir(mode=0o755)
    else:
        (place / "src/name").write_text("content")
    os.chown(place / "src", _USER, _USER)

    with pytest.raises(CopyError) as caught:
        _as_user(place, lambda: copy_tree("src", "home/dst", method=method).as_dict())

    error = caught.value
    operation = "mknod" if kind == "device" else "chown"
    assert (error.path, error.operation, error.errno) == ("src/name", operation, errno.EPERM)
    assert not (place / "home/dst").exists()


@METHODS
def test_it_is_left_out_and_counted_where_that_is_asked(place: Path, method: str) -> None:
    (place / "src/file").write_text("content")
    (place / "src/folder").mkdir(mode=0o755)
    (place / "src/link").symlink_to("x")
    os.mknod(place / "src/device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.link(place / "src/device", place / "src/folder/device")
    os.setxattr(place / "src/file", "trusted.secret", b"not even seen")
    os.setxattr(place / "src/file", "security.capability", b"\1\0\0\2" + bytes(16))
    before = facts(place / "src")

    report = _as_user(
        place, lambda: copy_tree("src", "home/dst", method=method, ownership="ignore").as_dict()
    )

    assert report["skipped"] == {"owner": 4, "device": 2, "xattr": 1}
    assert report["entries"] == {"file": 1, "directory": 2, "symlink": 1}
    told = facts(place / "home/dst")
    expected = {
        path: fact._replace(owner=(_USER, _USER), xattrs={})
        for path, fact in before.items()
        if b"device" not in path
    }
    assert_same(expected, told)


@METHODS
def test_a_tree_of_ones_own_is_the_same(place: Path, method: str) -> None:
    (place / "src/shut/inner").mkdir(parents=True)
    (place / "src/shut/inner/file").write_text("content")
    (place / "src/shut/inner/read only").write_text("content")
    (place / "src/link").symlink_to("x")
    os.mkfifo(place / "src/fifo")
    os.link(place / "src/shut/inner/file", place / "src/twin")
    os.setxattr(place / "src/shut/inner/read only", "user.name", b"value")
    os.setxattr(place / "src/shut/inner", "user.name", b"value")
    os.setxattr(place / "src/shut", ACCESS, SOME_ACL)
    os.setxattr(place / "src/shut/inner", DEFAULT, SOME_ACL)
    _owned_by_user(place / "src")
    (place / "src/shut/inner/read only").chmod(0o444)
    (place / "src/shut/inner/file").chmod(0o6755)
    for path in ("src/shut/inner", "src/shut"):
        (place / path).chmod(0o555)
    os.utime(place / "src/shut", ns=(1, 2))
    before = facts(place / "src")

    _as_user(place, lambda: copy_tree("src", "home/dst", method=method).as_dict())

    assert_same(before, facts(place / "home/dst"))
    assert_same(before, facts(place / "src"))


def _deep(root: Path, mode: int) -> dict[bytes, Facts]:
    path = root
    made = []
    for level in range(150):
        path = path / f"{level}"
        path.mkdir()
        (path / "beside").mkdir()
        (path / "file").touch()
        made.append(path)
    _owned_by_user(root)
    for path in reversed(made):
        (path / "beside").chmod(mode)
        path.chmod(mode)
    return facts(root)


@METHODS
def test_folders_that_may_not_be_written_at_any_depth(place: Path, method: str) -> None:
    before = _deep(place / "src", 0o500)
    _as_user(place, lambda: copy_tree("src", "home/dst", method=method).as_dict())
    assert_same(before, facts(place / "home/dst"))


@METHODS
def test_folders_that_shut_their_new_owner_out(place: Path, method: str) -> None:
    _deep(place / "src", 0o055)
    for path in (place / "src").glob("**/"):
        os.chown(path, 0, _USER)
    before = facts(place / "src", atime=False)  # who does not own it cannot help changing it

    report = _as_user(
        place,
        lambda: copy_tree(
            "src", "home/dst", method=method, ownership="ignore", workers=1
        ).as_dict(),
    )

    assert report["skipped"] == {"owner": 301}
    expected = {path: fact._replace(owner=(_USER, _USER)) for path, fact in before.items()}
    assert_same(expected, facts(place / "home/dst", atime=False))


def test_attributes_outlive_an_acl_that_takes_the_permission_to_set_them(place: Path) -> None:
    (place / "src/file").write_text("content")
    _owned_by_user(place / "src")
    with suppress(OSError):  # tmpfs has them since Linux 6.6
        os.setxattr(place / "src/file", "user.some", b"value")
    os.setxattr(place / "src/file", ACCESS, SOME_ACL)
    (place / "src/file").chmod(0o444)
    before = facts(place / "src")
    _as_user(place, lambda: copy_tree("src", "home/dst").as_dict())
    assert_same(before, facts(place / "home/dst"))


@METHODS
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_may_not_be_read_is_an_error_that_names_it(
    place: Path, kind: str, method: str
) -> None:
    (place / "src/more/name").mkdir(parents=True)
    if kind == "file":
        (place / "src/more/name").rmdir()
        (place / "src/more/name").write_text("content")
    _owned_by_user(place / "src")
    (place / "src/more/name").chmod(0)
    before = facts(place / "src")

    with pytest.raises(CopyError) as caught:
        _as_user(place, lambda: copy_tree("src", "home/dst", method=method).as_dict())

    error = caught.value
    assert (error.path, error.errno) == ("src/more/name", errno.EACCES)
    assert not (place / "home/dst").exists()
    assert_same(before, facts(place / "src"))


def test_a_destination_that_may_not_be_made_is_an_error(place: Path) -> None:
    os.chown(place / "src", _USER, _USER)
    (place / "other").mkdir(mode=0o777)
    (place / "other").chmod(0o777)
    (place / "secret").mkdir(mode=0o700)
    for dst, operation in (("dst", "create"), ("other", "chmod"), ("secret", "open")):
        with pytest.raises(CopyError) as caught:
            _as_user(place, lambda dst=dst: copy_tree("src", dst).as_dict())  # type: ignore[misc]
        assert caught.value.path == dst
        assert operation in (caught.value.operation, "chmod")
    assert not (place / "dst").exists()
    assert stat.S_IMODE(os.stat(place / "other").st_mode) == 0o777


def test_root_without_its_capabilities_is_like_anybody(place: Path) -> None:
    def copy() -> CopyReport:
        return copy_tree("src", "root/dst")

    (place / "root").mkdir()
    (place / "src/shut/inner").mkdir(parents=True)
    (place / "src/shut/file").touch()
    os.setxattr(place / "src/shut/file", "user.name", b"value")
    (place / "src/shut/file").chmod(0o444)
    (place / "src/shut").chmod(0o555)
    before = facts(place / "src")

    pid = os.fork()
    if pid == 0:
        try:
            import ctypes

            os.chdir(place)
            # capset(2): all dropped, version 3
            header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
            assert ctypes.CDLL(None).capset(header, data) == 0
            copy()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert_same(before, facts(place / "root/dst"))


@METHODS
def test_a_label_of_the_host_is_left_out_and_counted(place: Path, method: str) -> None:
    (place / "src/file").write_text("content")
    os.setxattr(place / "src/file", "user.name", b"value")
    _owned_by_user(place / "src")
    for name in ("security.apparmor", "security.ima", "security.SMACK64"):
        try:
            os.setxattr(place / "src/file", name, b"value")
        except OSError as error:  # a kernel that has such labels checks them
            pytest.skip(f"{name}: {error.strerror}")

    report = _as_user(place, lambda: copy_tree("src", "home/dst", method=method).as_dict())

    assert report["skipped"] == {"xattr": 3}
    assert facts(place / "home/dst")[b"file"].xattrs == {"user.name": b"value"}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("mode", [0o700, 0o555, 0o755])
def test_a_folder_of_another_user_that_cannot_be_deleted_is_named(
    place: Path, mode: int, workers: int
) -> None:
    (place / "home/tree/foreign/file").mkdir(parents=True)
    os.chown(place / "home/tree", _USER, _USER)
    (place / "home/tree/foreign").chmod(mode)

    def remove() -> str:
        with pytest.raises(OperationError) as caught:
            remove_tree("home/tree", workers=workers)
        assert "belongs to another user" in caught.value.reason
        return caught.value.path

    named = "home/tree/foreign" if mode == 0o700 else "home/tree/foreign/file"
    assert _as_user(place, remove) == named
