"""A clone is compared with a stack of layers; a difference is read by itself."""

from __future__ import annotations

import io
import os
import resource
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from reflayer.archive import (
    Packing,
    apply_layer,
    changes,
    difference_changes,
    difference_size,
    difference_usage,
    pack_difference,
    pack_layer,
)
from reflayer.copy import copy_tree
from reflayer.errors import ArchiveError, OperationError
from reflayer.walk.overlay import WHITEOUT_MODE
from reflayer.walk.stack import AnyStack, Stack, stack_of
from tests.archive.tars import as_nobody
from tests.file_systems import require_root

BASE = ("etc/", "etc/passwd", "etc/hosts", "etc/deep/", "etc/deep/file", "kind", "other/x")


@pytest.fixture
def here(place: Path) -> Path:
    """An empty folder on each file system in turn."""
    require_root()
    return place


def make(root: Path, *files: str, space: str = "trusted") -> Path:
    """A layer, on what is there of it: each file has its name in it, and ``a/`` is a folder.

    ``!a`` is a whiteout, ``@a`` a device 0:0 as a difference has it, ``=a/`` an opaque folder,
    ``~a/`` one that no entry was made for; ``a>b`` is a hard link to ``a``.
    """
    for file in ("/", *files):
        file, _, link = file.partition(">")
        name = file.lstrip("!@=~")
        path = root / name.strip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if link:
            os.link(path, root / link)
        elif file.startswith("!"):
            os.mknod(path, WHITEOUT_MODE)
        elif name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text("" if file.startswith("@") else name)
        for mark, attribute in _MARKS.items():
            if file.startswith(mark):
                os.setxattr(path, f"{space}.overlay.{attribute}", b"y")
    return root


_MARKS = {"=": "opaque", "~": "reflayer.implied", "@": "reflayer.device"}


def told(clone: Path, stack: AnyStack, cloned: float | None = None) -> list[str]:
    found = list(changes(clone, stack))
    assert cloned is None or list(changes(clone, stack, cloned=cloned)) == found
    return [f"{change.kind} {change.path}" for change in found]


def told_by_itself(upper: Path, *below: Path) -> list[str]:
    found = difference_changes(upper, stack_of(below))
    return [f"{change.kind} {change.path}" for change in found]


def entries(layer: Packing) -> list[str]:
    """Each entry's name: a folder's with a slash at its end, a device's with its number."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(layer))) as archive:
        return [_entry(member) for member in archive]


def _entry(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return f"{member.name}/"
    if member.islnk():
        return f"{member.linkname}>{member.name}"
    device = f" {member.devmajor}:{member.devminor}"
    return member.name + (device if member.ischr() else "")


def test_an_untouched_clone_of_a_stack_has_no_changes(here: Path) -> None:
    """Among the layers are all that a difference can have."""
    stack = [
        make(here / "3", "=other/", "other/new", "@device", "kind/", "kind/new", "!etc/added"),
        make(here / "2", "~etc/", "!etc/passwd", "etc/added", "!kind", "etc/deep", "!nowhere"),
        make(here / "1", *BASE),
    ]
    os.setxattr(stack[0] / "other", "trusted.overlay.overlay.opaque", b"y")
    time.sleep(0.05)
    copy_tree(stack, here / "clone")
    time.sleep(0.05)
    assert sorted(os.listdir(here / "clone")) == ["device", "etc", "kind", "other"]
    assert told(here / "clone", stack, time.time()) == []
    assert entries(pack_layer(here / "clone", stack)) == []


def test_each_change_is_told_of_the_layer_that_the_tree_has_it_from(here: Path) -> None:
    stack = [
        make(here / "3", "etc/", "etc/top", "=other/", "other/new", "@device"),
        make(here / "2", "etc/", "!etc/passwd", "etc/hosts", "other/", "other/y", "etc/deep"),
        make(here / "1", *BASE),
    ]
    clone = here / "clone"
    time.sleep(0.05)
    copy_tree(stack, clone)
    time.sleep(0.05)
    cloned = time.time()
    for name in ("etc/passwd", "other/x", "other/y"):  # as it is in a layer, but hidden
        copy_file(here / ("2" if name == "other/y" else "1") / name, clone / name)
    copy_file(here / "1/etc/hosts", clone / "etc/hosts")
    (clone / "etc/top").unlink()
    (clone / "device").unlink()
    assert told(clone, stack, cloned) == [
        "D /device",
        "C /etc",
        "C /etc/hosts",
        "A /etc/passwd",
        "D /etc/top",
        "C /other",
        "A /other/x",
        "A /other/y",
    ]


def copy_file(source: Path, name: Path) -> None:
    subprocess.run(["cp", "--archive", source, name], check=True)


def test_a_device_0_0_of_the_tree_is_a_file_in_a_difference_and_as_it_was(here: Path) -> None:
    """Its attributes, owner and mode count, and in the lowest layer it is what it is."""
    upper, whole = make(here / "2", "@upper", "@other"), make(here / "1", "kind")
    stack = Stack((bytes(upper),), bytes(whole))
    os.mknod(here / "1/lower", WHITEOUT_MODE | 0o600)
    for name in ("upper", "other"):
        os.chmod(here / "2" / name, 0o640)
        os.setxattr(here / "2" / name, "trusted.overlay.overlay.x", b"1")
    clone = here / "clone"
    copy_tree(stack, clone)
    assert os.getxattr(clone / "upper", "trusted.overlay.x") == b"1"
    assert told(clone, stack) == []
    os.setxattr(clone / "upper", "trusted.overlay.x", b"2")
    os.chmod(clone / "lower", 0o640)
    assert told(clone, stack) == ["C /lower", "C /upper"]
    assert entries(pack_layer(clone, stack)) == ["lower 0:0", "upper 0:0"]


def test_an_opaque_root_hides_all_below(here: Path) -> None:
    stack = [make(here / "2", "=/", "new"), make(here / "1", *BASE)]
    clone = make(here / "clone", "new", "kind")
    copy_file(here / "2/new", clone / "new")
    os.utime(clone, ns=(0, os.stat(here / "2").st_mtime_ns))
    assert told(clone, stack) == ["A /kind"]
    assert entries(pack_layer(clone, stack)) == ["kind"]


def test_names_that_a_layer_above_hides_do_not_count_as_an_inode_s(here: Path) -> None:
    """``one`` has a further name now, though the inode in the lower layer has as many."""
    lower = make(here / "1", "one", "one>two", "folder/", "one>folder/three", "a/", "one>a/four")
    stack = [make(here / "2", "!two", "!folder", "=a/"), lower]
    clone, whole = here / "clone", here / "whole"
    copy_tree(stack, clone)
    copy_tree(clone, whole)
    os.link(clone / "one", clone / "zone")
    assert entries(pack_layer(clone, stack))[1:] == ["one", "one>zone"]
    assert b"".join(pack_layer(clone, stack)) == b"".join(pack_layer(clone, whole))
    os.link(clone / "one", clone / "a/four")
    os.link(clone / "one", clone / "two")
    os.unlink(clone / "zone")
    assert b"".join(pack_layer(clone, stack)) == b"".join(pack_layer(clone, whole))


def test_folders_of_many_layers_and_of_any_depth(here: Path) -> None:
    """More layers and levels than stay open."""
    deep = "d/" * 150
    stack = [make(here / str(layer), deep, f"{deep}{layer}", f"d/d/{layer}") for layer in range(12)]
    make(here / "11", "d/" * 200, "e/" * 150)
    clone = here / "clone"
    time.sleep(0.05)
    copy_tree(stack, clone)
    time.sleep(0.05)
    cloned = time.time()
    make(clone, f"{deep}new", f"{deep}/e", "e/" * 100 + "new", "d/d/new")
    os.unlink(clone / "d/d/7")
    before = len(os.listdir("/proc/self/fd"))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 100, limit[1]))
    try:
        found = told(clone, stack, cloned)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert [one for one in found if not one.startswith("C")] == [
        *("D /d/d/7", f"A /{deep}e", f"A /{deep}new", "A /d/d/new"),
        "A /" + "e/" * 100 + "new",
    ]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_layer_that_is_not_there_is_named(here: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    make(here / "1")
    for stack in ([here / "1", here / "none"], [here / "none", here / "1"]):
        with pytest.raises(OperationError, match=r"/none: open: No such file"):
            told(here / "1", stack)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_difference_packs_to_the_layer_that_it_was_made_of(here: Path) -> None:
    upper = make(
        here / "upper",
        *("~/", "~etc/", "!etc/passwd", "etc/new", "etc/new>link", "=other/", "other/x", "!gone"),
        *("=~empty/", "@device", "folder/", "!folder/x"),
    )
    os.setxattr(upper / "folder", "trusted.overlay.overlay.opaque", b"x")
    os.setxattr(upper / "device", "trusted.overlay.overlay.overlay.x", b"x")
    packing = pack_difference(upper)
    assert entries(packing) == [
        *(".wh.gone", "device 0:0", "empty/", "empty/.wh..wh..opq", "etc/.wh.passwd", "etc/new"),
        *("folder/", "folder/.wh.x", "etc/new>link", "other/", "other/.wh..wh..opq", "other/x"),
    ]
    assert (packing.entries, packing.skipped) == (12, {})
    (here / "tree").mkdir()
    apply_layer(here / "tree", io.BytesIO(b"".join(pack_difference(upper))))
    assert os.listxattr(here / "tree/folder") == ["trusted.overlay.opaque"]
    assert os.listxattr(here / "tree/device") == ["trusted.overlay.overlay.x"]


def test_a_difference_tells_what_the_comparison_of_its_tree_would_tell(here: Path) -> None:
    below = [make(here / "2", "etc/", "!etc/hosts", "etc/added"), make(here / "1", *BASE)]
    upper = make(
        here / "3",
        *("~etc/", "!etc/passwd", "!etc/hosts", "etc/added", "etc/new/", "etc/new/x", "!none"),
        *("=other/", "other/y", "kind/", "kind/x", "@device", "!etc/new/y", "=etc/new/deep/"),
    )
    for path in (".", "etc"):
        status = os.stat(here / "2" / path)
        os.utime(upper / path, ns=(status.st_atime_ns, status.st_mtime_ns))
    expected = [
        *("A /device", "C /etc", "C /etc/added", "A /etc/new", "A /etc/new/deep"),
        *("A /etc/new/x", "D /etc/passwd", "C /kind", "A /kind/x"),
        *("C /other", "D /other/x", "A /other/y"),
    ]
    assert told_by_itself(upper, *below) == expected
    copy_tree([upper, *below], here / "tree")
    assert told(here / "tree", below) == expected


def test_a_folder_as_it_was_is_no_change_and_a_file_as_it_was_is_one(here: Path) -> None:
    below = make(here / "1", *BASE)
    upper = here / "2"
    copy_tree(below, upper)
    assert told_by_itself(upper, below) == [
        *("C /etc", "C /etc/deep", "C /etc/deep/file", "C /etc/hosts", "C /etc/passwd"),
        *("C /kind", "C /other", "C /other/x"),
    ]
    for name in ("etc/deep/file", "etc/hosts", "etc/passwd", "other/x"):
        (upper / name).unlink()
    for name in ("etc/deep", "etc", "other"):
        status = os.stat(below / name)
        os.utime(upper / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert told_by_itself(upper, below) == ["C /kind"]


def test_the_size_of_a_difference_is_that_of_its_files_and_its_usage_that_of_all(
    here: Path,
) -> None:
    upper = make(here / "upper", "folder/", "folder/file", "folder/file>link", "!gone", "@device")
    assert difference_size(upper) == len("folder/file")
    usage = difference_usage(upper)
    assert usage.inodes == len({os.lstat(path).st_ino for path in (upper, *upper.rglob("*"))}) == 5
    told = subprocess.run(["du", "--block-size=1", "-s", upper], check=True, capture_output=True)
    assert usage.bytes == int(told.stdout.split()[0])


def test_what_is_mounted_in_a_difference_stays_out(here: Path) -> None:
    upper = make(here / "upper", "folder/", "other/", "other/x")
    subprocess.run(["mount", "--bind", upper / "other", upper / "folder"], check=True)
    try:
        packing = pack_difference(upper)
        assert entries(packing) == ["./", "folder/", "other/", "other/x"]
        assert packing.skipped == {"mount": 1}
        assert difference_size(upper) == len("other/x")
    finally:
        subprocess.run(["umount", upper / "folder"], check=True)


def test_a_socket_of_a_difference_still_hides_what_is_below(here: Path) -> None:
    """No tar has sockets, and no layer does, but the folder of a running container may."""
    upper = make(here / "upper", "~/")
    os.mknod(upper / "socket", stat.S_IFSOCK)
    packing = pack_difference(upper)
    assert entries(packing) == [".wh.socket"]
    assert packing.skipped == {"socket": 1}


@pytest.mark.parametrize("file", [".wh.file", "!.wh.file"])
def test_a_name_that_a_layer_cannot_have_is_an_error(here: Path, file: str) -> None:
    upper = make(here / "upper", "folder/", f"{file[:-8]}folder/.wh.file")
    with pytest.raises(ArchiveError, match=r"^folder/\.wh\.file: .* rename it$"):
        entries(pack_difference(upper))


@pytest.mark.parametrize("feature", ["redirect", "metacopy"])
@pytest.mark.parametrize("name", ["folder", "folder/file"])
def test_what_overlayfs_left_a_part_of_below_is_an_error(
    here: Path, feature: str, name: str
) -> None:
    upper = make(here / "upper", "folder/", "folder/file")
    lower = make(here / "lower", "folder/file")
    copy_tree([upper, lower], here / "clone")
    os.setxattr(upper / name, f"trusted.overlay.{feature}", b"")
    with pytest.raises(OperationError, match=f"upper/{name}: pack: .* feature {feature}"):
        entries(pack_difference(upper))
    with pytest.raises(OperationError, match=f"clone/{name}: compare: .* feature {feature}"):
        told(here / "clone", [upper, lower])


def test_an_ordinary_user_has_stacks_as_well(here: Path) -> None:
    """Whose marks are among the attributes that users have."""

    def all_of_it() -> tuple[list[str], list[str], list[str]]:
        lower = make(Path("lower"), *BASE)
        upper = make(Path("upper"), "=other/", "other/y", "!kind", "@device", space="user")
        os.setxattr(upper / "other", "user.overlay.overlay.opaque", b"x")
        copy_tree([upper, lower], "clone")
        assert os.listxattr("clone/other") == ["user.overlay.opaque"]
        untouched = told(Path("clone"), [upper, lower])
        Path("clone/etc/hosts").unlink()
        layer = pack_layer("clone", [upper, lower])
        return untouched, entries(layer), entries(pack_difference(upper))

    untouched, layer, difference = as_nobody(here, all_of_it)
    assert untouched == []
    assert layer == ["etc/", "etc/.wh.hosts"]
    assert difference == [
        *("./", ".wh.kind", "device 0:0", "other/", "other/.wh..wh..opq", "other/y")
    ]
