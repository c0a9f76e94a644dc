"""A tree and its changes as a tar: what is in it, and that other programs read it."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.archive import apply_layer, changes, pack_layer, pack_tree
from reflayer.archive.pack import PackedFile
from reflayer.copy import copy_tree
from reflayer.errors import ArchiveError, OperationError
from tests.archive.tars import as_nobody
from tests.file_systems import require, require_root, shut_mount
from tests.trees import assert_same, facts


@pytest.fixture
def here(place_on: Callable[[str], Path]) -> Path:
    return place_on("xfs")


@pytest.fixture
def parent(here: Path) -> Path:
    root = here / "parent"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"#!" * 3000)
    (root / "etc").mkdir()
    (root / "etc/old").write_bytes(b"old")
    (root / "etc/older").write_bytes(b"older")
    return root


def _clone(parent: Path, name: str = "clone") -> Path:
    copy_tree(parent, parent.parent / name)
    return parent.parent / name


def _layer(clone: Path, parent: Path | None) -> bytes:
    return b"".join(pack_layer(clone, parent))


def _members(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getmembers()


def _names(archive: bytes) -> list[str]:
    return [member.name for member in _members(archive)]


def _assert_applies(clone: Path, parent: Path) -> None:
    other = _clone(parent, "other")
    apply_layer(other, io.BytesIO(_layer(clone, parent)))
    assert_same(facts(clone, atime=False), facts(other, atime=False))


def test_a_link_to_an_unchanged_file_takes_the_file_along(parent: Path) -> None:
    clone = _clone(parent)
    os.link(clone / "bin/tool", clone / "etc/twin")
    layer = _layer(clone, parent)
    first, twin = (m for m in _members(layer) if not m.isdir())
    assert (first.name, first.size) == ("bin/tool", 6000)
    assert (twin.name, twin.islnk(), twin.linkname) == ("etc/twin", True, "bin/tool")
    _assert_applies(clone, parent)


def test_a_name_that_was_deleted_leaves_the_other_one_out(parent: Path) -> None:
    os.link(parent / "bin/tool", parent / "etc/twin")
    clone = _clone(parent)
    (clone / "etc/twin").unlink()
    assert _names(_layer(clone, parent)) == ["etc", "etc/.wh.twin"]
    _assert_applies(clone, parent)


def test_names_that_part_and_names_that_change_partners(parent: Path) -> None:
    def put(root: Path, *groups: str) -> None:
        for group in groups:
            for name in group:
                (root / name).unlink(missing_ok=True)
            (root / group[0]).write_bytes(b"all the same")
            os.utime(root / group[0], (0, 0))
            for name in group[1:]:
                os.link(root / group[0], root / name)
        os.utime(root, (0, 0))

    put(parent, "ab", "cd", "efg", "hi")
    clone = _clone(parent)
    put(clone, "ac", "bd", "e", "fg", "ih")
    _assert_applies(clone, parent)


def test_an_emptied_folder_is_opaque(parent: Path) -> None:
    clone = _clone(parent)
    (clone / "etc/old").unlink()
    (clone / "etc/older").unlink()
    (clone / "etc/new").touch()
    assert _names(_layer(clone, parent)) == ["etc", "etc/.wh..wh..opq", "etc/new"]
    _assert_applies(clone, parent)


def test_whiteouts_come_before_their_siblings(parent: Path) -> None:
    clone = _clone(parent)
    (clone / "etc/older").unlink()
    (clone / "etc/a").touch()
    assert _names(_layer(clone, parent)) == ["etc", "etc/.wh.older", "etc/a"]
    _assert_applies(clone, parent)


def test_a_folder_below_those_that_stay_open_is_told_of_late(parent: Path) -> None:
    """Its attributes are read when all that is known of it is its path."""
    deep = parent.joinpath(*["d"] * 100)
    deep.mkdir(parents=True)
    os.setxattr(parent / "d/d", "user.a", b"value")
    clone = _clone(parent)
    (clone.joinpath(*["d"] * 100) / "new").touch()
    _assert_applies(clone, parent)


@pytest.mark.parametrize("name", [".wh.x", ".wh..wh..opq"])
def test_a_name_that_a_layer_cannot_have_is_refused_by_name(parent: Path, name: str) -> None:
    clone = _clone(parent)
    (clone / "etc" / name).touch()
    with pytest.raises(ArchiveError, match=rf"^etc/{name}: .* cannot be in a layer"):
        _layer(clone, parent)
    assert f"etc/{name}" in _names(b"".join(pack_tree(clone)))


def test_a_socket_is_counted_and_what_it_replaced_is_deleted(parent: Path) -> None:
    clone = _clone(parent)
    (clone / "etc/old").unlink()
    os.mknod(clone / "etc/old", stat.S_IFSOCK)
    packing = pack_layer(clone, parent)
    assert _names(b"".join(packing)) == ["etc", "etc/.wh.old"]
    assert packing.skipped == {"socket": 1}


def test_the_same_tree_gives_the_same_bytes(parent: Path) -> None:
    first = b"".join(pack_tree(parent))
    subprocess.run(["find", parent, "-type", "f", "-exec", "cat", "{}", "+"], check=True)
    assert b"".join(pack_tree(parent)) == first
    assert b"".join(pack_tree(_clone(parent))) == first


def test_what_ustar_can_hold_needs_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for name in ("file", "."):
        os.utime(tmp_path / name, (5, 5))
    packing = pack_tree(tmp_path)
    assert len(b"".join(packing)) == 512 * (1 + 1 + 1 + 2)
    assert (packing.size, packing.entries) == (512 * 5, 2)


def test_a_file_that_changes_meanwhile_is_named(parent: Path) -> None:
    with open(parent / "big", "wb") as file:
        file.write(bytes(3 << 20))
    chunks = iter(pack_tree(parent))
    next(chunks)
    next(chunks)
    os.truncate(parent / "big", 1)
    with pytest.raises(OperationError, match=r"/big: pack: its size changed"):
        list(chunks)


def test_something_empty_stands_for_what_is_mounted(parent: Path) -> None:
    require_root()
    for source, place in (("bin", "etc/folder"), ("bin/tool", "etc/old")):
        (parent / "etc/folder").mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", parent / source, parent / place], check=True)
    try:
        packing = pack_tree(parent)
        members = {m.name: m for m in _members(b"".join(packing))}
    finally:
        subprocess.run(["umount", parent / "etc/folder", parent / "etc/old"], check=True)
    assert sorted(members) == [
        ".", "bin", "bin/tool", "etc", "etc/folder", "etc/old", "etc/older",
    ]  # fmt: skip
    assert members["etc/folder"].isdir()
    assert (members["etc/old"].size, members["bin/tool"].size) == (0, 6000)
    assert packing.skipped == {"mount": 2}


def test_who_may_not_read_a_file_is_told_which(parent: Path) -> None:
    (parent / "etc/old").chmod(0)

    def pack() -> str:
        with pytest.raises(OperationError) as caught:
            b"".join(pack_tree("parent"))
        return str(caught.value)

    assert as_nobody(parent.parent, pack) == "parent/etc/old: pack: Permission denied"


def _hard(root: Path) -> Path:
    """A tree with all that is hard for a tar."""
    require_root()
    root.mkdir()
    top = os.fsencode(root)
    for name in (
        b"n" * 255, "ümläut".encode(), b"bytes\xff\xfe", b"new\nline", b" ", b"back\\slash",
        b"s%3Dlash", b"\xff" * 200,
    ):  # fmt: skip
        with open(top + b"/" + name, "wb") as file:
            file.write(name)
    folder = root.joinpath(*["long" * 20] * 5)
    folder.mkdir(parents=True)
    (folder / "file").touch()
    os.link(folder / "file", root / "twin")
    (root / "link").symlink_to("t" * 300)
    os.symlink(b"\xfe/\xff", root / "odd link")
    with open(root / "sparse", "wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"data")
    with open(root / "hole", "wb") as file:
        file.truncate(9 << 30)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "device", stat.S_IFCHR | 0o604, os.makedev(300, 70000))
    (root / "owned").touch()
    os.chown(root / "owned", 3_000_000, 4_000_000_000)
    (root / "owned").chmod(0o6755)
    os.setxattr(root / "owned", "user.a=b%c", b"a\0\n=")
    os.utime(root / "owned", ns=(0, 1_234_567_890_123_456_789))
    (root / "early").touch()
    os.utime(root / "early", ns=(0, -1_500_000_000))
    (root / "late").touch()
    os.utime(root / "late", ns=(0, 9_000_000_000 * 10**9))
    return root


def test_what_is_hard_for_a_tar_comes_out_the_same(here: Path) -> None:
    root = _hard(here / "root")
    (root / "hole").unlink()  # a layer would be as long as it
    (here / "out").mkdir()
    apply_layer(here / "out", io.BytesIO(_layer(root, None)))
    assert_same(facts(root, atime=False), facts(here / "out", atime=False))


def test_a_layer_has_no_sparse_entries(here: Path) -> None:
    """Docker would unpack such a layer and then be unable to save or push it."""
    (here / "root").mkdir()
    with open(here / "root/sparse", "wb") as file:
        file.truncate(1 << 20)
    assert b"GNU.sparse" not in _layer(here / "root", None)
    assert b"GNU.sparse" in b"".join(pack_tree(here / "root"))


def test_gnu_tar_takes_out_the_same_tree(here: Path) -> None:
    root = _hard(here / "root")
    out = _taken_out(root, "tar", "--xattrs", "--xattrs-include=*")
    assert_same(facts(root, atime=False, holes=True), facts(out, atime=False, holes=True))


def test_bsdtar_takes_out_the_same_tree(here: Path) -> None:
    root = _hard(here / "root")
    os.removexattr(root / "owned", "user.a=b%c")  # it takes %3D for the name
    os.utime(root / "early", ns=(0, -1_000_000_000))  # it reads -1.5 as -0.5
    out = _taken_out(root, "bsdtar")
    left, right = facts(root, atime=False), facts(out, atime=False)
    del left[b"."], right[b"."]  # what it makes there comes after the root's time
    assert_same(left, right)


def _taken_out(root: Path, program: str, *options: str) -> Path:
    require(program)
    archive, out = root.parent / "root.tar", root.parent / "out"
    archive.write_bytes(b"".join(pack_tree(root)))
    out.mkdir()
    subprocess.run(
        [program, "-xpf", archive, "-C", out, "--numeric-owner", *options],
        check=True,
        capture_output=True,
    )
    return out


def test_content_that_a_size_does_not_tell_is_packed() -> None:
    """As proc(5) says of each file that it is empty."""
    fd = os.open("/proc/version", os.O_RDONLY)
    file = PackedFile(fd, b"version", sparse=False)
    packed = b"".join(file.data())
    os.close(fd)
    expected = Path("/proc/version").read_bytes()
    assert (file.size, packed) == (len(expected), expected + bytes(-len(expected) % 512))


@pytest.mark.parametrize("kind", ["dead", "foreign"])
def test_what_is_mounted_need_not_be_open_to_anybody(parent: Path, kind: str) -> None:
    clone = _clone(parent)
    (clone / "etc/new").write_bytes(b"new")
    (clone / "mounted").mkdir()
    with shut_mount(clone / "mounted", kind):
        told = [(change.kind, change.path) for change in changes(clone, parent)]
        packing = pack_layer(clone, parent)
        packed = b"".join(packing)

    assert ("A", "/etc/new") in told
    assert packing.skipped == {"mount": 1}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getmember("mounted").isdir()
