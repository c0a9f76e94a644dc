"""Each type of entry comes out as what it says, whatever was there before."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from reflayer.errors import ArchiveError
from tests.archive.tars import apply, entry, folder, header, tar, text, xattr
from tests.file_systems import require_root
from tests.trees import Facts, assert_same, facts

pytestmark = pytest.mark.usefixtures("both_ways")

_NO_ID = 2**32 - 1
ACL = struct.pack("<I", 2) + b"".join(  # linux/posix_acl_xattr.h
    struct.pack("<HHI", tag, permissions, number)
    for tag, permissions, number in [
        (1, 7, _NO_ID), (2, 6, 1234), (4, 5, _NO_ID), (16, 7, _NO_ID), (32, 0, _NO_ID),
    ]
)  # fmt: skip
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service


def attributes(fact: Facts) -> dict[str, bytes]:
    """The extended attributes, without the other form in which XFS shows root its ACLs."""
    return {a: value for a, value in fact.xattrs.items() if not a.startswith("trusted.SGI_ACL")}


def test_every_type_of_entry_is_made_with_its_owner_mode_and_times(place: Path) -> None:
    times = {"mtime": "-1.5", "atime": "4000000000.000000123"}
    apply(
        place / "root",
        tar(
            folder("./", mode=0o711, uid=5, gid=6, pax=times),
            folder("dir/", mode=0o2750, uid=1, gid=2, pax=times),
            entry("dir/file", b"content", mode=0o4755, uid=3, gid=4, pax=times),
            entry("dir/link", kind="symlink", target="/nowhere", uid=7, gid=8, pax=times),
            entry("dir/hard", kind="link", target="dir/file", mode=0o4755, uid=3, gid=4, pax=times),
            entry("null", kind="char", device=(1, 3), mode=0o666, uid=9, pax=times),
            entry("whiteout", kind="char", device=(0, 0), mode=0o600),
            entry("disk", kind="block", device=(259, 65539), mode=0o1640, gid=6, pax=times),
            entry("pipe", kind="fifo", mode=0o622, uid=11, pax=times),
        ),
    )
    link = os.lstat(place / "root/dir/link")  # whose access time changes when it is read
    told = facts(place / "root")
    expected = {
        b".": (stat.S_IFDIR, 0o711, (5, 6)),
        b"dir": (stat.S_IFDIR, 0o2750, (1, 2)),
        b"dir/file": (stat.S_IFREG, 0o4755, (3, 4)),
        b"dir/hard": (stat.S_IFREG, 0o4755, (3, 4)),
        b"dir/link": (stat.S_IFLNK, 0o777, (7, 8)),
        b"disk": (stat.S_IFBLK, 0o1640, (0, 6)),
        b"null": (stat.S_IFCHR, 0o666, (9, 0)),
        b"pipe": (stat.S_IFIFO, 0o622, (11, 0)),
        b"whiteout": (stat.S_IFCHR, 0o600, (0, 0)),
    }
    assert {path: fact[:3] for path, fact in told.items()} == expected
    assert link.st_atime_ns == 4_000_000_000_000_000_123
    for path in expected.keys() - {b"whiteout"}:
        assert told[path].mtime == -1_500_000_000
        assert told[path].atime in (4_000_000_000_000_000_123, None)
    assert told[b"dir/hard"].twin == b"dir/file"
    assert told[b"dir/link"].target == b"/nowhere"
    assert told[b"null"].device == os.makedev(1, 3)
    assert told[b"disk"].device == os.makedev(259, 65539)
    assert told[b"whiteout"].device == 0
    assert (place / "root/dir/file").read_bytes() == b"content"


def test_a_hard_link_s_own_header_holds_for_its_inode(place: Path) -> None:
    require_root()
    named = {xattr("user.name"): "value"}
    apply(place / "root", tar(
        entry("file", b"x", mode=0o600, uid=1, gid=1),
        entry("file-2", kind="link", target="file", mode=0o4710, uid=2, gid=3, mtime=5, pax=named),
        entry("link", kind="symlink", target="file", uid=1),
        entry("link-2", kind="link", target="link", mode=0o600, uid=4, mtime=6),
    ))  # fmt: skip
    told = facts(place / "root")
    assert told[b"file"][:3] == (stat.S_IFREG, 0o4710, (2, 3))
    assert (told[b"file"].mtime, told[b"file"].xattrs["user.name"]) == (5 * 10**9, b"value")
    assert (told[b"link"].owner, told[b"link"].mtime) == ((4, 0), 6 * 10**9)


def test_attributes_of_other_hosts_and_systems_are_left_out_and_counted(tmp_path: Path) -> None:
    names = ("security.selinux", "com.apple.provenance", "system.nfs4_acl", "btrfs.compression")
    pax = {xattr(name): "value" for name in (*names, "user.name")}
    applied = apply(tmp_path / "root", tar(folder("dir", pax=pax), entry("dir/file", pax=pax)))
    assert applied.skipped == {"xattr": 2 * len(names)}
    told = facts(tmp_path / "root")
    assert told[b"dir"].xattrs == told[b"dir/file"].xattrs == {"user.name": b"value"}


def test_links_to_what_aufs_kept_have_its_content_and_header(tmp_path: Path) -> None:
    kept = ".wh..wh.plnk/9.47"
    apply(tmp_path / "root", tar(
        folder(".wh..wh.plnk"), entry(kept, b"a shell", mode=0o755, mtime=7), entry(".wh..wh.aufs"),
        entry("sh", kind="link", target=kept), entry("bin/rsh", kind="link", target=f"/./{kept}"),
    ))  # fmt: skip
    told = facts(tmp_path / "root")
    assert told.keys() == {b".", b"bin", b"bin/rsh", b"sh"}
    assert told[b"sh"].twin == b"bin/rsh"
    assert (told[b"sh"].mode, told[b"sh"].mtime) == (0o755, 7 * 10**9)
    assert (tmp_path / "root/bin/rsh").read_bytes() == b"a shell"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_owners_below_zero_are_those_of_32_bits(form: Literal[1, 2], place: Path) -> None:
    require_root()
    nobody = 2**32 - 2
    pax = {"uid": "-2", "gid": "-2"} if form == tarfile.PAX_FORMAT else {}
    apply(place / "root", tar(
        folder("dir", uid=7, gid=7), folder("dir", uid=-1, gid=8), entry("dir/file", uid=-1, gid=9),
        entry("nobody", uid=-2, gid=-2, pax=pax), form=form,
    ))  # fmt: skip
    told = {name: fact.owner for name, fact in facts(place / "root").items()}
    assert told == {b".": (0, 0), b"dir": (7, 8), b"dir/file": (0, 9), b"nobody": (nobody, nobody)}


def test_a_folder_without_a_name_is_the_root(tmp_path: Path) -> None:
    block = header(bytes(100) + tar(folder("x", mode=0o711), end=False)[100:])
    apply(tmp_path / "root", block + tar(entry("file")))
    assert {name: fact.mode for name, fact in facts(tmp_path / "root").items()} == {
        b".": 0o711, b"file": 0o644
    }  # fmt: skip


def test_attributes_survive_the_change_of_owner_and_the_mode_survives_the_acl(place: Path) -> None:
    pax = {
        xattr("security.capability"): text(CAPABILITY),
        xattr("user.name"): "value",
        xattr("trusted.empty"): "",
        xattr("system.posix_acl_access"): text(ACL),
    }
    of_folder = {
        xattr("system.posix_acl_default"): text(ACL),
        xattr("system.posix_acl_access"): text(ACL),
        xattr("user.binary"): text(b"\0\xff\n="),
    }
    of_link = {xattr("trusted.name"): "yes"}
    apply(
        place / "root",
        tar(
            folder("dir", mode=0o2770, uid=1, pax=of_folder),
            entry("dir/file", b"x", mode=0o4770, uid=12, gid=13, pax=pax),
            entry("dir/plain", b"x", mode=0o640),
            folder("dir/inner", mode=0o700),
            entry("dir/link", kind="symlink", target="x", pax=of_link),
        ),
    )
    told = facts(place / "root")
    assert attributes(told[b"dir/file"]) == {
        "security.capability": CAPABILITY,
        "user.name": b"value",
        "trusted.empty": b"",
        "system.posix_acl_access": ACL,
    }
    assert (told[b"dir/file"].mode, told[b"dir"].mode) == (0o4770, 0o2770)
    assert attributes(told[b"dir"]) == {
        "system.posix_acl_default": ACL,
        "system.posix_acl_access": ACL,
        "user.binary": b"\0\xff\n=",
    }
    assert attributes(told[b"dir/link"]) == {"trusted.name": b"yes"}
    assert attributes(told[b"dir/plain"]) == attributes(told[b"dir/inner"]) == {}
    assert (told[b"dir/plain"].mode, told[b"dir/inner"].mode) == (0o640, 0o700)


def test_nothing_is_inherited_from_where_the_layer_lands(place: Path) -> None:
    root = place / "root"
    root.mkdir()
    os.chown(root, 0, 4321)
    os.chmod(root, 0o2755)
    os.setxattr(root, "system.posix_acl_default", ACL)
    before = os.umask(0o077)
    try:
        apply(
            root,
            tar(
                entry("file", mode=0o666),
                folder("dir", mode=0o777),
                entry("dir/file", mode=0o646, gid=4321),
                entry("pipe", kind="fifo", mode=0o666),
                entry("link", kind="symlink", target="x"),
                entry("implied/file"),
            ),
        )
    finally:
        os.umask(before)
    told = facts(root)
    assert {path: fact.mode for path, fact in told.items() if path != b"."} == {
        b"file": 0o666,
        b"dir": 0o777,
        b"dir/file": 0o646,
        b"pipe": 0o666,
        b"link": 0o777,
        b"implied": 0o755,
        b"implied/file": 0o644,
    }
    owners = {path: fact.owner for path, fact in told.items() if path != b"."}
    assert owners.pop(b"dir/file") == (0, 4321)
    assert set(owners.values()) == {(0, 0)}
    assert all(not attributes(fact) for path, fact in told.items() if path != b".")
    # What has no entry is as it was: the root itself.
    assert attributes(told[b"."]) == {"system.posix_acl_default": ACL}
    assert (told[b"."].mode & 0o7000, told[b"."].owner) == (0o2000, (0, 4321))


def test_nothing_is_inherited_from_folders_of_lower_layers(place: Path) -> None:
    root = place / "root"
    default = {xattr("system.posix_acl_default"): text(ACL)}
    apply(root, tar(folder("dir", mode=0o2777, gid=50, mtime=9, pax=default)))
    before = facts(root)[b"dir"]
    apply(root, tar(entry("dir/file"), folder("dir/sub"), entry("dir/new/file", gid=50)))
    told = facts(root)
    assert told[b"dir"] == before
    assert {path: (fact.mode, fact.owner) for path, fact in told.items() if b"/" in path} == {
        b"dir/file": (0o644, (0, 0)),
        b"dir/sub": (0o755, (0, 0)),
        b"dir/new": (0o755, (0, 0)),
        b"dir/new/file": (0o644, (0, 50)),
    }
    assert not any(attributes(fact) for path, fact in told.items() if b"/" in path)


def test_several_layers_are_applied_at_once_by_several_threads(tmp_path: Path) -> None:
    layers = [
        tar(*[entry(f"{n % 7}/{n}", bytes([thread]) * 5000) for n in range(400)])
        for thread in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: apply(tmp_path / str(n), layers[n]), range(4)))
    for thread in range(4):
        files = [path for path in (tmp_path / str(thread)).rglob("*") if path.is_file()]
        assert len(files) == 400
        assert all(path.read_bytes() == bytes([thread]) * 5000 for path in files)


def test_the_root_entry_replaces_the_root_s_metadata(place: Path) -> None:
    root = place / "root"
    root.mkdir()
    os.setxattr(root, "system.posix_acl_default", ACL)
    os.setxattr(root, "user.old", b"x")
    apply(root, tar(folder(".", mode=0o755, mtime=77), entry("file")))
    told = facts(root)
    assert (attributes(told[b"."]), told[b"."].mode, told[b"."].mtime) == ({}, 0o755, 77 * 10**9)


LOWER = [
    folder("."),
    folder("was", mode=0o700),
    folder("was/full"),
    entry("was/full/file", b"old"),
    entry("was/file", b"old"),
    entry("was/link", kind="symlink", target="full"),
]
KINDS = {
    "file": {"data": b"new"},
    "folder": {"kind": "folder"},
    "symlink": {"kind": "symlink", "target": "nowhere"},
    "fifo": {"kind": "fifo"},
    "char": {"kind": "char", "device": (1, 3)},
    "link": {"kind": "link", "target": "other"},
}


@pytest.mark.parametrize("same_layer", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["was/full", "was/file", "was/link"])
def test_a_later_entry_replaces_what_is_there(
    name: str, kind: str, same_layer: bool, tmp_path: Path
) -> None:
    if kind == "char" or name == "was/full":  # a device, or a folder that shuts its owner out
        require_root()
    new = [entry("other", b"other"), entry(name, mode=0o600, **KINDS[kind])]  # type: ignore[arg-type]
    if same_layer:
        apply(tmp_path / "root", tar(*LOWER, *new))
    else:
        apply(tmp_path / "root", tar(*LOWER))
        apply(tmp_path / "root", tar(*new))
    kept = [i for i in LOWER if kind == "folder" or not i[0].name.startswith(name + "/")]
    apply(tmp_path / "expected", tar(*[i for i in kept if i[0].name != name], *new))
    assert_same(facts(tmp_path / "root", atime=False), facts(tmp_path / "expected", atime=False))


def test_a_file_s_entry_makes_a_new_inode(place: Path) -> None:
    root = place / "root"
    apply(root, tar(entry("one", b"old"), entry("two", kind="link", target="one")))
    apply(root, tar(entry("one", b"new", mode=0o600)))
    assert (root / "two").read_bytes() == b"old"
    assert stat.S_IMODE((root / "two").stat().st_mode) == 0o644
    assert (root / "one").read_bytes() == b"new"


def test_a_folder_s_entry_changes_its_metadata_and_keeps_its_content(place: Path) -> None:
    root = place / "root"
    old = {xattr("user.old"): "1", xattr("user.both"): "1",
           xattr("system.posix_acl_access"): text(ACL),
           xattr("system.posix_acl_default"): text(ACL)}  # fmt: skip
    apply(root, tar(folder("dir", mode=0o770, uid=1, pax=old), entry("dir/file", b"content")))
    new = {xattr("user.both"): "2", xattr("user.new"): "2"}
    apply(root, tar(folder("dir", mode=0o1705, gid=9, mtime=5, pax=new)))
    told = facts(root)
    assert attributes(told[b"dir"]) == {"user.both": b"2", "user.new": b"2"}
    assert (told[b"dir"].mode, told[b"dir"].owner, told[b"dir"].mtime) == (
        0o1705,
        (0, 9),
        5 * 10**9,
    )
    assert (root / "dir/file").read_bytes() == b"content"


def test_folder_times_are_right_though_later_entries_touch_the_folders(place: Path) -> None:
    many = [folder(f"{n}", mtime=n, mode=0o555) for n in range(200)]
    files = [entry(f"{n}/file") for n in range(200)]
    more = [entry(f"{n}/more") for n in range(0, 200, 3)]
    root = place / "root"
    apply(root, tar(folder(".", mtime=3), *many, *files, *more))
    assert [(root / str(n)).stat().st_mtime for n in range(200)] == list(range(200))
    assert root.stat().st_mtime == 3
    # A folder of a lower layer without an entry of its own comes out as it was.
    apply(root, tar(entry("7/late"), entry(".wh.8")))
    assert (root / "7").stat().st_mtime == 7
    assert root.stat().st_mtime == 3


def test_hard_links_reach_files_of_lower_layers_and_links_are_not_followed(place: Path) -> None:
    root = place / "root"
    apply(root, tar(entry("etc/file", b"x"), entry("link", kind="symlink", target="etc/file")))
    apply(
        root,
        tar(
            entry("one", kind="link", target="/etc/file"),
            entry("deep/two", kind="link", target="./etc/../etc/file"),
            entry("also", kind="link", target="link"),
            entry("etc/file", kind="link", target="etc/file"),
        ),
    )
    told = facts(root)
    assert told[b"one"].twin == told[b"etc/file"].twin == told[b"deep/two"].twin == b"deep/two"
    assert (told[b"also"].type, told[b"also"].links) == (stat.S_IFLNK, 2)
    assert (told[b"one"].links, (root / "one").read_bytes()) == (3, b"x")


def test_hard_links_of_every_type_that_is_no_folder_are_made(place: Path) -> None:
    kinds = ["file", "symlink", "fifo", "char", "block"]
    firsts = [entry(kind, kind=kind, target="x" if kind == "symlink" else "") for kind in kinds]
    seconds = [entry(f"{kind}-2", kind="link", target=kind) for kind in kinds]
    apply(place / "root", tar(*firsts, *seconds))
    told = facts(place / "root")
    assert all(told[f"{kind}-2".encode()].twin == kind.encode() for kind in kinds)


@pytest.mark.parametrize("target", ["missing", "no/where", "file/below", "", "/", "loop/x"])
def test_a_hard_link_to_what_is_not_there_is_an_error(target: str, tmp_path: Path) -> None:
    loop = entry("loop", kind="symlink", target="loop")
    with pytest.raises(ArchiveError, match="name: it links to"):
        apply(
            tmp_path / "root", tar(entry("file"), loop, entry("name", kind="link", target=target))
        )


def test_somebody_s_link_in_a_folder_for_all_is_followed(tmp_path: Path) -> None:
    require_root()
    linked = [folder("tmp", mode=0o1777), folder("real"),
              entry("tmp/link", kind="symlink", target="/real", uid=1000)]  # fmt: skip
    apply(tmp_path / "root", tar(*linked, entry("tmp/link/file", b"content")))
    apply(tmp_path / "root", tar(entry("tmp/link/second", b"content")))
    assert sorted(os.listdir(tmp_path / "root/real")) == ["file", "second"]
    assert os.readlink(tmp_path / "root/tmp/link") == "/real"


def test_a_hard_link_to_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="name: it links to dir, which is a folder"):
        apply(tmp_path / "root", tar(folder("dir"), entry("name", kind="link", target="dir")))


def test_any_byte_string_is_a_name(tmp_path: Path) -> None:
    names = ["a\nb", "\udcff\udc80", "-", " ", "\\", "…", ".hidden", "a" * 255, ".wh", "x.wh.y"]
    apply(tmp_path / "root", tar(*[entry(name, b"x") for name in names]))
    assert sorted(map(os.fsdecode, os.listdir(os.fsencode(tmp_path / "root")))) == sorted(names)


def test_paths_beyond_path_max_and_thousands_of_levels_are_made(place: Path) -> None:
    deep = "/".join(["d" * 100] * 60)
    deeper = "/".join(["e"] * 3000)
    levels = [folder("/".join(["f"] * n), mtime=n) for n in range(1, 1200)]
    apply(
        place / "root",
        tar(
            entry(f"{deep}/file", b"deep"),
            entry(f"{deeper}/file", b"deeper"),
            entry("hard", kind="link", target=f"{deep}/file"),
            *levels,
        ),
    )
    told = facts(place / "root")
    assert told[f"{deep}/file".encode()].twin == told[b"hard"].twin
    assert told[f"{deeper}/file".encode()].size == 6
    assert all(told[b"/".join([b"f"] * n)].mtime == n * 10**9 for n in range(1, 1200))
    apply(place / "root", tar(entry(f"{deeper}/file", b"again"), entry(f"{deep}/.wh.file")))
    told = facts(place / "root")
    assert told[f"{deeper}/file".encode()].size == 5
    assert f"{deep}/file".encode() not in told
    apply(place / "root", tar(*[entry(f".wh.{name}") for name in ("d" * 100, "e", "f")]))
    assert facts(place / "root").keys() == {b".", b"hard"}
