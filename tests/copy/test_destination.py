"""The destination: absent or empty, never inside the source, and as it was after a failure."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import copy_tree
from reflayer.copy import CopyError
from reflayer.copy.links import Links
from tests.copy.hard_cases import ACCESS, DEFAULT, SOME_ACL, write
from tests.trees import assert_same, facts


@pytest.fixture
def here(place_on: Callable[[str], Path]) -> Path:
    """A folder on XFS with a small source."""
    place = place_on("xfs")
    (place / "src/folder").mkdir(parents=True)
    (place / "src/folder/file").write_bytes(b"content")
    (place / "src/fifo").parent.mkdir(exist_ok=True)
    os.mkfifo(place / "src/fifo")
    return place


def _broken(*_: object) -> None:
    raise ZeroDivisionError


def _fails(src: Path, dst: Path | bytes | str, reason: str) -> CopyError:
    with pytest.raises(CopyError) as caught:
        copy_tree(src, dst)
    assert reason in str(caught.value)
    return caught.value


def test_an_absent_destination_is_made_and_an_empty_one_is_used(here: Path) -> None:
    (here / "empty").mkdir()
    for dst in (here / "absent", here / "empty"):
        copy_tree(here / "src", dst)
        assert_same(facts(here / "src"), facts(dst))


def test_a_destination_with_something_in_it_is_refused_and_left(here: Path) -> None:
    (here / "dst").mkdir()
    (here / "dst/.hidden").touch()
    before = facts(here / "dst")

    _fails(here / "src", here / "dst", "the folder is not empty")

    assert_same(before, facts(here / "dst"))


@pytest.mark.parametrize("kind", ["file", "link to an empty folder", "dangling link", "fifo"])
def test_a_destination_that_is_no_folder_is_refused(here: Path, kind: str) -> None:
    (here / "empty").mkdir()
    dst = here / "dst"
    match kind:
        case "file":
            dst.touch()
        case "link to an empty folder":
            dst.symlink_to("empty")
        case "dangling link":
            dst.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(dst)
    before = os.lstat(dst)

    _fails(here / "src", dst, "it exists and is not a folder")
    _fails(here / "src", f"{dst}/", "it exists and is not a folder")

    assert os.lstat(dst) == before
    assert os.listdir(here / "empty") == []


def test_a_destination_whose_parent_is_not_there_is_refused(here: Path) -> None:
    _fails(here / "src", here / "none/dst", "No such file")
    _fails(here / "src", "", "No such file")


def test_a_source_that_is_no_folder_is_refused_and_nothing_made(here: Path) -> None:
    (here / "file").touch()
    for name in ("file", "none", "src/fifo"):
        with pytest.raises(CopyError, match=name):
            copy_tree(here / name, here / "dst")
        assert not (here / "dst").exists()


def test_a_source_named_by_a_link_is_the_folder_behind_it(here: Path) -> None:
    (here / "link").symlink_to("src")
    copy_tree(here / "link", here / "dst")
    assert_same(facts(here / "src"), facts(here / "dst"))


def test_names_of_any_bytes_and_relative_paths(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    os.rename("src", b"\xff\n")
    copy_tree(b"\xff\n", b"\xfe/")
    copy_tree("./\udcff\n", here / "other")
    assert_same(facts(b"\xff\n"), facts(b"\xfe"))
    assert_same(facts(b"\xff\n"), facts(here / "other"))


@pytest.mark.parametrize("dst", ["src", "src/new", "src/folder/new", "link/new", "src/empty"])
def test_a_copy_into_itself_is_refused_before_anything_is_made(here: Path, dst: str) -> None:
    (here / "src/empty").mkdir()
    (here / "link").symlink_to("src/folder")
    before = facts(here / "src")

    with pytest.raises(CopyError):
        copy_tree(here / "src", here / dst)

    assert_same(before, facts(here / "src"))


def test_a_copy_into_itself_through_a_bind_mount_is_refused(here: Path) -> None:
    (here / "bind").mkdir()
    (here / "inner").mkdir()
    with _bound(here / "src", here / "bind"), _bound(here / "src/folder", here / "inner"):
        before = facts(here / "src")
        for dst in (here / "bind/new", here / "inner/new"):
            _fails(here / "src", dst, "the destination is inside the source")
            assert not dst.exists()
        assert facts(here / "src").keys() == before.keys()


def test_nothing_comes_from_the_folder_that_it_lands_in(place: Path) -> None:
    (place / "src/folder").mkdir(parents=True)
    write(os.fsencode(place / "src/folder/file"))
    os.mkfifo(place / "src/fifo", 0o666)
    os.chmod(place / "src/folder", 0o777)
    (place / "home").mkdir()
    os.chown(place / "home", 1000, 1000)
    os.chmod(place / "home", 0o2777)
    os.setxattr(place / "home", DEFAULT, SOME_ACL)
    (place / "home/empty").mkdir()
    os.setxattr(place / "home/empty", ACCESS, SOME_ACL)
    os.chown(place / "home/empty", 1234, 4321)
    os.setxattr(place / "home/empty", "trusted.name", b"value")
    before = facts(place / "src")

    umask = os.umask(0o077)
    try:
        for dst in ("new", "empty"):
            for method in ("stream", "tar"):
                copy_tree(place / "src", place / "home" / dst, method=method)
                assert_same(before, facts(place / "home" / dst))
                subprocess.run(["rm", "-rf", place / "home" / dst], check=True)
                if dst == "empty":
                    (place / "home/empty").mkdir()
    finally:
        os.umask(umask)


@pytest.mark.parametrize("umask", [0o777, 0o277, 0])
def test_any_umask(here: Path, umask: int) -> None:
    for mode in (0o700, 0o777, 0o4755, 0):
        (here / f"src/d{mode:o}").mkdir()
        (here / f"src/f{mode:o}").touch()
        (here / f"src/f{mode:o}").chmod(mode)
        (here / f"src/d{mode:o}").chmod(mode)
    before = facts(here / "src")

    old = os.umask(umask)
    try:
        copy_tree(here / "src", here / "dst")
        copy_tree(here / "src", here / "tar", method="tar")
    finally:
        os.umask(old)

    assert_same(before, facts(here / "dst"))
    assert_same(before, facts(here / "tar"))


@pytest.mark.parametrize("method", ["auto", "tar"])
def test_a_failure_leaves_no_destination_that_was_not_there(here: Path, method: str) -> None:
    with pytest.raises(ZeroDivisionError):
        copy_tree(here / "src", here / "dst", method=method, progress=_broken)

    assert sorted(os.listdir(here)) == ["src"]


@pytest.mark.parametrize("method", ["auto", "tar"])
def test_a_failure_leaves_an_empty_folder_as_it_was(here: Path, method: str) -> None:
    (here / "dst").mkdir()
    os.chown(here / "dst", 1234, 4321)
    os.setxattr(here / "dst", DEFAULT, SOME_ACL)
    os.setxattr(here / "dst", ACCESS, SOME_ACL)
    os.setxattr(here / "dst", "user.name", b"value")
    os.chmod(here / "dst", 0o3710)
    os.utime(here / "dst", ns=(1, 2))
    before = facts(here / "dst")

    with pytest.raises(ZeroDivisionError):
        copy_tree(here / "src", here / "dst", method=method, progress=_broken)

    assert_same(before, facts(here / "dst"))


def test_an_error_of_the_progress_callback_passes_unchanged(here: Path) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError("mine")

    with pytest.raises(BrokenPipeError, match="mine"):
        copy_tree(here / "src", here / "dst", progress=broken)

    assert not (here / "dst").exists()


def test_a_folder_that_appears_meanwhile_is_not_removed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reflayer.copy import tree

    def appears(*_: object) -> None:
        (here / "dst").mkdir()

    monkeypatch.setattr(tree, "_refuse_unsupported", appears)

    with pytest.raises(CopyError, match="File exists"):
        copy_tree(here / "src", here / "dst", method="stream")

    assert (here / "dst").is_dir()


@pytest.mark.parametrize(
    ("setting", "value"), [("method", "magic"), ("ownership", "some"), ("workers", 0)]
)
def test_a_setting_that_is_none_is_refused(here: Path, setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=str(value)):
        copy_tree(here / "src", here / "dst", **{setting: value})  # type: ignore[arg-type]
    assert not (here / "dst").exists()


class _bound:  # noqa: N801
    """A bind mount for the time of a ``with`` block."""

    def __init__(self, source: Path, target: Path) -> None:
        self.source, self.target = source, target

    def __enter__(self) -> None:
        subprocess.run(["mount", "--bind", self.source, self.target], check=True)

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.target], check=True)


def test_what_an_undo_cannot_remove_is_told_with_the_error(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something was mounted in the copy while it was made."""
    (here / "src/folder/link").symlink_to("t")
    finish = Links.clear

    def mount_and_fail(links: Links) -> None:
        finish(links)
        subprocess.run(["mount", "-t", "tmpfs", "none", here / "dst/folder"], check=True)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Links, "clear", mount_and_fail)
    try:
        with pytest.raises(CopyError) as caught:
            copy_tree(here / "src", here / "dst")
    finally:
        subprocess.run(["umount", here / "dst/folder"], check=True)

    assert caught.value.errno == errno.EIO
    assert "Input/output error; what was made of" in str(caught.value)
    assert "unmount it" in str(caught.value)


@pytest.mark.parametrize("method", ["auto", "stream", "tar"])
def test_flags_of_chattr_are_neither_kept_nor_in_the_way(here: Path, method: str) -> None:
    flagged = [here / "src/folder/file", here / "src/folder"]
    subprocess.run(["chattr", "+i", *flagged], check=True)
    try:
        before = facts(here / "src")
        copy_tree(here / "src", here / "dst", method=method)
    finally:
        subprocess.run(["chattr", "-i", *flagged], check=True)

    assert_same(before, facts(here / "dst"))
    (here / "dst/folder/file").unlink()  # as a file without flags lets one
