"""What is made in a container is made in it, and goes without a trace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflayer.errors import SandboxError
from reflayer.sandbox import inside


@pytest.fixture
def container(tmp_path: Path) -> Path:
    path = tmp_path / "container"
    (path / "etc").mkdir(parents=True)
    return path


@pytest.fixture
def top(container: Path) -> Iterator[int]:
    fd = inside.open_root(str(container))
    yield fd
    os.close(fd)


def test_folders_are_made_through_links_that_lead_nowhere_yet(container: Path, top: int) -> None:
    (container / "var").symlink_to("/run/var")
    (container / "etc/up").symlink_to("../../../../../away")
    assert inside.make_folder(top, "/var/a/b", []) == "/run/var/a/b"
    assert inside.make_folder(top, "/etc/up/x", []) == "/away/x"
    assert (container / "run/var/a/b").is_dir()
    assert (container / "away/x").is_dir()
    assert sorted(os.listdir(container.parent)) == ["container"]


def test_files_are_made_where_the_container_would_find_them(container: Path, top: int) -> None:
    (container / "etc/resolv.conf").symlink_to("/run/resolve/stub.conf")
    assert inside.make_file(top, "/etc/resolv.conf", []) == "/run/resolve/stub.conf"
    assert (container / "run/resolve/stub.conf").read_text() == ""


def test_modes_do_not_depend_on_the_umask(container: Path, top: int) -> None:
    before = os.umask(0o077)
    try:
        inside.make_file(top, "/a/b", [])
    finally:
        os.umask(before)
    assert (container / "a").stat().st_mode & 0o777 == 0o755
    assert (container / "a/b").stat().st_mode & 0o777 == 0o644


def test_links_in_a_circle_end(container: Path, top: int) -> None:
    (container / "one").symlink_to("two")
    (container / "two").symlink_to("one")
    with pytest.raises((OSError, SandboxError)):
        inside.make_folder(top, "/one/x", [])


def test_a_file_is_no_folder(container: Path, top: int) -> None:
    (container / "file").write_text("")
    with pytest.raises(SandboxError, match="is no folder"):
        inside.make_folder(top, "/file/x", [])


def test_what_was_made_goes_without_a_trace(container: Path, top: int) -> None:
    os.utime(container, ns=(1, 2))
    os.utime(container / "etc", ns=(3, 4))
    made: list[inside.Made] = []
    inside.make_file(top, "/etc/hosts", made)
    inside.make_folder(top, "/a/b/c", made)
    inside.unmake(top, made)
    assert sorted(os.listdir(container)) == ["etc"]
    assert os.listdir(container / "etc") == []
    assert container.stat().st_mtime_ns == 2
    assert (container / "etc").stat().st_mtime_ns == 4


def test_what_has_something_in_it_stays(container: Path, top: int) -> None:
    made: list[inside.Made] = []
    inside.make_file(top, "/etc/hosts", made)
    inside.make_folder(top, "/a", made)
    (container / "etc/hosts").write_text("written")
    (container / "a/new").write_text("")
    inside.unmake(top, made)
    assert (container / "etc/hosts").read_text() == "written"
    assert os.listdir(container / "a") == ["new"]
