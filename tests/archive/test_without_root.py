"""Without root a layer is applied as far as the kernel lets it, when the caller says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflayer.errors import ArchiveError, OperationError
from tests.archive.tars import NOBODY, apply, as_nobody, entry, folder, tar, text, xattr
from tests.archive.test_entries import CAPABILITY
from tests.file_systems import require_root
from tests.trees import facts


@pytest.fixture
def home(place_on: object) -> Path:
    """A folder for the unprivileged user, on a file system that has attributes."""
    require_root()
    where: Path = place_on("ext4")  # type: ignore[operator]
    return where


def test_what_the_kernel_refuses_is_left_out_and_counted(home: Path) -> None:
    capability = {xattr("security.capability"): text(CAPABILITY)}
    layer = tar(
        folder("dir", uid=0, mode=0o755),
        entry("dir/file", b"x", uid=0, mode=0o4755, pax=capability),
        entry("mine", b"x", uid=NOBODY, gid=NOBODY, mode=0o444, pax={xattr("user.name"): "value"}),
        entry("disk", kind="block", device=(8, 0)),
        entry("again", kind="link", target="disk"),
        entry("pipe", kind="fifo", uid=NOBODY, gid=NOBODY),
        entry("link", kind="symlink", target="x", uid=5),
    )  # fmt: skip

    applied = as_nobody(home, lambda: apply(Path("root"), layer, ownership="ignore"))

    assert applied.skipped == {"owner": 3, "device": 2, "xattr": 1}
    told = facts(home / "root")
    assert told.keys() == {b".", b"dir", b"dir/file", b"mine", b"pipe", b"link"}
    assert {fact.owner for fact in told.values()} == {(NOBODY, NOBODY)}
    assert (told[b"dir/file"].mode, told[b"mine"].mode) == (0o4755, 0o444)
    assert told[b"mine"].xattrs == {"user.name": b"value"}


@pytest.mark.parametrize(
    ("item", "operation"),
    [
        (entry("name", uid=0), "chown"),
        (folder("name", uid=0), "chown"),
        (entry("name", kind="block", device=(8, 0), uid=NOBODY, gid=NOBODY), "mknod"),
        (entry("name", uid=NOBODY, gid=NOBODY, pax={xattr("trusted.x"): "1"}), "trusted.x"),
    ],
)
def test_otherwise_it_is_an_error_that_names_the_entry(
    item: tuple[object, bytes], operation: str, home: Path
) -> None:
    layer = tar(item)  # type: ignore[arg-type]
    with pytest.raises((OperationError, ArchiveError), match=rf"name/?: .*{operation}"):
        as_nobody(home, lambda: apply(Path("root"), layer))


def test_folders_and_files_without_permission_bits_are_no_hindrance(home: Path) -> None:
    def mine(name: str, data: bytes = b"", *, mode: int = 0, kind: str = "file") -> object:
        return entry(name, data, mode=mode, kind=kind, uid=NOBODY, gid=NOBODY)

    lower = [
        mine("./", kind="folder"), mine("shut", kind="folder"), mine("shut/in", kind="folder"),
        mine("shut/in/file", b"1"), mine("shut/gone", kind="folder"), mine("shut/gone/file"),
        *[mine(f"other-{n}", kind="folder") for n in range(80)], mine("shut/in/second", b"2"),
    ]  # fmt: skip
    upper = [
        mine("shut/in/third", b"3"), mine("shut/.wh.gone"), mine("shut/in/file", b"4"),
        *[mine(f".wh.other-{n}") for n in range(80)], mine("shut/new/file", b"5"),
    ]  # fmt: skip

    as_nobody(home, lambda: apply(Path("root"), tar(*lower)))  # type: ignore[arg-type]
    as_nobody(home, lambda: apply(Path("root"), tar(*upper)))  # type: ignore[arg-type]

    told = facts(home / "root")
    assert told.keys() == {
        b".", b"shut", b"shut/in", b"shut/in/file", b"shut/in/second", b"shut/in/third",
        b"shut/new", b"shut/new/file",
    }  # fmt: skip
    assert {path: fact.mode for path, fact in told.items() if fact.mode} == {b"shut/new": 0o755}
    assert (home / "root/shut/in/file").read_bytes() == b"4"


def test_a_folder_that_lets_in_but_does_not_list_is_no_hindrance(home: Path) -> None:
    def mine(name: str, mode: int, kind: str = "folder") -> object:
        return entry(name, kind=kind, mode=mode, uid=NOBODY, gid=NOBODY)

    as_nobody(home, lambda: apply(Path("root"), tar(mine("top", 0o300), mine("top/in", 0o755))))  # type: ignore[arg-type]
    as_nobody(home, lambda: apply(Path("root"), tar(mine("top/in/file", 0o644, "file"))))  # type: ignore[arg-type]
    assert {path: fact.mode for path, fact in facts(home / "root").items() if path != b"."} == {
        b"top": 0o300, b"top/in": 0o755, b"top/in/file": 0o644,
    }  # fmt: skip


def test_files_of_lower_layers_are_linked_and_replaced(home: Path) -> None:
    def mine(name: str, data: bytes = b"", *, kind: str = "file", target: str = "") -> object:
        return entry(name, data, kind=kind, target=target, uid=NOBODY, gid=NOBODY, mode=0o400)

    as_nobody(home, lambda: apply(Path("root"), tar(mine("one", b"1"))))  # type: ignore[arg-type]
    upper = [mine("two", kind="link", target="one"), mine("one", b"new")]
    as_nobody(home, lambda: apply(Path("root"), tar(*upper)))  # type: ignore[arg-type]
    assert (home / "root/two").read_bytes() == b"1"
    assert (home / "root/one").read_bytes() == b"new"
    assert os.stat(home / "root/two").st_nlink == 1
