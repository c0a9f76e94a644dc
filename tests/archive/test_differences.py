"""A layer's difference, laid over what is below it, is the tree that applying it in place makes."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflayer.archive import IdMap, IdRange, apply_stream, pack_difference
from reflayer.errors import ArchiveError, OperationError
from reflayer.walk.overlay import is_implied, is_opaque
from reflayer.walk.stack import Stack
from tests.archive.differences import Layers
from tests.archive.tars import NOBODY, Entry, apply, as_nobody, entry, folder, tar, text, xattr
from tests.archive.test_entries import ACL, CAPABILITY
from tests.file_systems import require, require_root
from tests.random_stacks import overlay
from tests.trees import assert_same, facts

PlaceOn = Callable[[str], Path]
TIMES = {"mtime": "5.123456789", "atime": "4000000000.000000123"}
ATTRIBUTES = {
    **TIMES,
    xattr("user.name"): "value",
    xattr("trusted.overlay.opaque"): "y",
    xattr("user.overlay.overlay.opaque"): "y",
    xattr("system.posix_acl_access"): text(ACL),
    xattr("system.posix_acl_default"): text(ACL),
}
OF_FILE = {
    **TIMES,
    xattr("security.capability"): text(CAPABILITY),
    xattr("trusted.overlay.reflayer.device"): "y",
    xattr("system.posix_acl_access"): text(ACL),
}
BASE = tar(
    folder("./", mode=0o751, uid=3, pax=ATTRIBUTES),
    folder("dir", mode=0o2770, uid=1, gid=2, pax=ATTRIBUTES),
    entry("dir/file", b"lower"),
    folder("dir/sub", mode=0o1700, pax=TIMES),
    entry("dir/sub/deep", b"lower"),
    folder("dir/sub/shut", mode=0),
    entry("dir/link", kind="symlink", target="file"),
    entry("one", b"of three names" * 1000, mode=0o4750, uid=5, gid=6, pax=OF_FILE),
    entry("dir/two", kind="link", target="one", mode=0o4750, uid=5, gid=6, pax=OF_FILE),
    entry("dir/sub/three", kind="link", target="one", mode=0o4750, uid=5, gid=6, pax=OF_FILE),
    entry("alone", b"of one name", uid=9, pax=TIMES),
    entry("zero", kind="char", device=(0, 0), mode=0o640, uid=8, pax=TIMES),
    entry("dir/zero", kind="link", target="zero", mode=0o640, uid=8, pax=TIMES),
    entry("null", kind="char", device=(1, 3), mode=0o666, pax=TIMES),
    entry("pipe", kind="fifo", mode=0o622, pax=TIMES),
    entry("pipe-2", kind="link", target="pipe", mode=0o622, pax=TIMES),
    entry("up", kind="symlink", target="../dir/./sub/"),
    entry("away", kind="symlink", target="/dir/link", pax={xattr("trusted.name"): "x"}),
    entry("away-2", kind="link", target="away", pax={xattr("trusted.name"): "x"}),
    entry("loop", kind="symlink", target="loop"),
    entry("holes", bytes(1 << 20) + b"x"),
)


def hard(name: str, target: str, **fields: Any) -> Entry:
    """A hard link's entry."""
    return entry(name, kind="link", target=target, **fields)


LAYERS = {
    "a path through folders without an entry": [entry("dir/sub/new", b"1"), entry("dir/new/er")],
    "a path that nobody has": [entry("a/b/c/d", b"1"), folder("a/b")],
    "a folder's entry after what is in it": [entry("dir/sub/new"), folder("dir", mtime=7)],
    "an entry for a folder below": [folder("dir", mode=0o711, gid=9, mtime=7), entry("dir/new")],
    "two entries for one folder": [folder("dir", pax=ATTRIBUTES), folder("dir", uid=7, mtime=8)],
    "a folder over a file": [folder("alone", mtime=3), entry("alone/new"), entry("alone/a/b")],
    "a folder over a link": [folder("up", mtime=3), entry("up/new")],
    "a folder over a device": [folder("zero"), entry("zero/new"), folder("null")],
    "a file over a folder": [entry("dir", b"1"), entry("alone", b"2")],
    "a file over a link": [entry("up", b"1")],
    "a folder after a file after a folder": [entry("dir", b"1"), folder("dir"), entry("dir/new")],
    "a link after a folder": [folder("dir"), entry("dir", kind="symlink", target="up")],
    "paths through links below": [entry("up/new"), entry("up/../new"), entry("up/.wh.deep")],
    "a path through a link of the layer": [
        entry("mine", kind="symlink", target="dir/x/../sub"), entry("mine/new"),
        folder("dir"), entry("mine/more"),
    ],
    "a link below that is replaced": [
        entry("up/new"), folder("up"), entry("up/own"), entry("up/in/it"),
    ],
    "a link below that is hidden": [entry("up/new"), entry(".wh.up"), entry("up/own")],
    "a file where a link below led through": [entry("up/new"), entry("up", b"1")],
    "a link's folder that is hidden": [
        entry("dir/way", kind="symlink", target="sub"), entry("dir/way/1"),
        entry(".wh.dir"), entry("dir/way/2"),
    ],
    "whiteouts": [entry("dir/.wh.file"), entry("dir/.wh.sub"), entry(".wh.up"), entry(".wh.none")],
    "whiteouts of what is not there": [entry("none/.wh.x"), entry("alone/.wh.x"), entry("a/.wh.b")],
    "a whiteout, then a file": [entry(".wh.dir"), entry("dir", b"1"), entry(".wh.alone"),
                                entry("alone", b"1")],
    "a file, then a whiteout": [entry("dir", b"1"), entry(".wh.dir"), entry("dir/.wh.x")],
    "a whiteout, then a folder": [entry(".wh.dir"), folder("dir"), entry("dir/sub/new")],
    "a folder, then a whiteout": [folder("dir"), entry("dir/sub/new"), entry(".wh.dir")],
    "a whiteout, then a path through it": [entry(".wh.dir"), entry("dir/sub/new")],
    "a path, then a whiteout on it": [entry("dir/sub/new"), entry(".wh.dir"), entry("dir/more")],
    "a whiteout in a folder that is hidden": [entry("dir/sub/.wh.deep"), entry(".wh.dir")],
    "a whiteout beside a path": [entry("dir/sub/.wh.deep"), entry("dir/new"), entry(".wh.dir")],
    "a whiteout twice": [entry(".wh.dir"), entry(".wh.dir"), entry("dir/.wh.sub")],
    "a whiteout of a link's target": [entry(".wh.dir"), entry("up/new")],
    "an opaque folder": [entry("dir/.wh..wh..opq"), entry("dir/new"), entry("dir/sub/new")],
    "a folder that is opaque at last": [entry("dir/sub/new"), entry("dir/.wh..wh..opq")],
    "an opaque folder with an entry": [folder("dir"), entry("dir/.wh..wh..opq"), entry("dir/x/y")],
    "an opaque folder through a link": [entry("up/.wh..wh..opq"), entry("up/new")],
    "an opaque root": [entry("dir/new"), entry(".wh..wh..opq"), entry("dir/sub/new")],
    "folders in each other that are opaque": [
        entry("dir/sub/shut/a"), entry("dir/sub/.wh..wh..opq"), entry("dir/.wh..wh..opq"),
    ],
    "a link to a file of one name": [hard("new", "alone", uid=9, pax=TIMES)],
    "a link to a file of three names": [hard("new", "dir/two", mode=0o4750, uid=5, gid=6,
                                             pax=OF_FILE)],
    "a link that changes its file": [hard("new", "one", mode=0o600, uid=1, mtime=77)],
    "a link to a file some names of which are hidden": [
        entry("dir/.wh.two"), entry("dir/sub", b"1"), hard("new", "one"),
    ],
    "a link to a file some names of which are hidden later": [
        hard("new", "one"), entry("dir/.wh.two"), entry("dir/sub", b"1"), entry(".wh.one"),
    ],
    "a link to a file in a folder that is hidden later": [
        hard("new", "dir/sub/three"), entry(".wh.dir"),
    ],
    "a link to a file in a folder that is opaque later": [
        hard("dir/new", "dir/sub/three"), entry("dir/.wh..wh..opq"), entry("dir/sub/more"),
    ],
    "a link to a file that gets an entry later": [hard("new", "one"), entry("dir/two", b"1")],
    "a link between names of one file": [hard("dir/two", "one", mode=0o4750, uid=5, gid=6,
                                              pax=OF_FILE), entry("dir/.wh..wh..opq")],
    "a link of a link": [hard("new", "one"), hard("newer", "new"), hard("dir/file", "newer")],
    "a link through links": [hard("up/new", "up/../../dir/sub/deep")],
    "links of all types": [
        hard("a", "zero", mode=0o600), hard("b", "null"), hard("c", "pipe"), hard("d", "away"),
        hard("e", "holes"), entry(".wh.away-2"), entry("up/x", b"1"),
    ],
    "a link over a folder": [hard("dir", "alone"), entry("dir", b"1"), folder("dir")],
    "a device that is no whiteout": [
        entry("dir", kind="char", device=(0, 0), mode=0o4711, uid=4, pax=TIMES),
        entry("new", kind="char", device=(0, 0)), hard("newer", "new", mtime=9),
        entry("alone", kind="block", device=(0, 0)),
    ],
    "attributes that are no marks": [
        folder("dir", pax=ATTRIBUTES), entry("dir/new", b"", pax=OF_FILE),
        folder("new", pax=ATTRIBUTES), entry(".wh.new"), entry("in/new", kind="symlink", target="x",
        pax={xattr("trusted.overlay.opaque"): "y"}),
    ],
    "a root with an entry": [folder("./", mode=0o700, uid=1, mtime=3, pax=TIMES), entry("new")],
    "what aufs kept": [
        folder(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", b"x"), entry(".wh..wh.aufs"),
        hard("dir/sub/new", ".wh..wh.plnk/1.2"),
    ],
    "nothing": [],
}  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_difference_shows_over_a_tree_what_the_layer_makes_of_it(
    layer: list[Entry], place_on: PlaceOn
) -> None:
    layers = Layers(place_on("ext4"), BASE)
    layers.apply(tar(*layer))


def test_a_difference_lies_on_another(place: Path) -> None:
    layers = list(LAYERS.values())
    for number, layer in enumerate(layers):
        (place / str(number)).mkdir()
        stack = Layers(place / str(number), BASE)
        stack.apply(tar(*layers[number - 7]))
        with suppress(ArchiveError):  # some lead through what others have made a file
            stack.apply(tar(*layer))


ABSENT = "which is not there"
ERRORS = {
    "absent": ([hard("new", "none/x")], ABSENT),
    "absent in a folder below": ([hard("new", "dir/none")], ABSENT),
    "hidden": ([entry(".wh.one"), hard("new", "one")], ABSENT),
    "in what is hidden": ([entry(".wh.dir"), hard("new", "dir/sub/three")], ABSENT),
    "in what is opaque": ([entry("dir/.wh..wh..opq"), hard("new", "dir/sub/three")], ABSENT),
    "in a file": ([hard("new", "alone/x")], ABSENT),
    "a folder": ([hard("new", "dir/sub")], "which is a folder"),
    "itself at last": ([hard("dir", "dir/sub/three")], ABSENT),
    "a path through a file": ([entry("alone/new")], "Not a directory"),
    "a path through a device": ([entry("zero/new")], "Not a directory"),
    "a path through one's own device": (
        [entry("x", kind="char", device=(0, 0)), entry("x/new")], "Not a directory",
    ),
    "a path through a loop": ([entry("loop/new")], "Too many levels"),
    "an attribute that devices lack": (
        [entry("x", kind="char", device=(0, 0), pax={xattr("user.x"): "y"})], "cannot be set",
    ),
    "a root that is a file": ([entry(".")], "no folder"),
    "a whiteout of nothing": ([entry("dir/.wh.")], "by way of itself"),
}  # fmt: skip


@pytest.mark.parametrize(("layer", "message"), ERRORS.values(), ids=ERRORS)
def test_what_is_an_error_in_place_is_the_same_error(
    layer: list[Entry], message: str, place_on: PlaceOn
) -> None:
    layers = Layers(place_on("ext4"), BASE)
    with pytest.raises(ArchiveError, match=message):
        layers.apply(tar(*layer))


def test_what_is_in_a_difference_is_what_overlayfs_has_there(place: Path) -> None:
    difference = Layers(place, BASE).apply(
        tar(
            entry("dir/.wh.sub"), entry(".wh.none"), entry("dir/new"), folder("own"),
            entry("own/.wh..wh..opq"), entry(".wh.own"), entry("x", kind="char", device=(0, 0)),
            folder("y", pax=ATTRIBUTES),
        )
    )  # fmt: skip
    told = facts(difference)
    assert told.keys() == {
        b".", b"dir", b"dir/new", b"dir/sub", b"none", b"own", b"x", b"y"
    }  # fmt: skip
    for name in (b"dir/sub", b"none"):
        assert (told[name].type, told[name].device) == (stat.S_IFCHR, 0)
    assert told[b"x"].type == stat.S_IFREG
    marked = {name for name in told if is_opaque(os.path.join(os.fsencode(difference), name))}
    assert marked == {b"own"}
    assert {name for name in told if is_implied(told[name].xattrs)} == {b".", b"dir"}


def test_a_kernel_s_overlay_shows_the_same(place_on: PlaceOn) -> None:
    require("mount")
    place = place_on("ext4")
    base = [folder("dir", mtime=3), entry("dir/old"), folder("gone/old"), entry("file"),
            folder("replaced"), entry("replaced/old")]  # fmt: skip
    layers = Layers(place, tar(*base))
    layers.apply(tar(entry("dir/new", b"1"), entry(".wh.gone"), folder("file"), entry(".wh.file")))
    layers.apply(
        tar(entry(".wh.replaced"), folder("replaced"), entry("dir/.wh.old"), entry("gone/x"))
    )
    with overlay(place, [Path(os.fsdecode(path)) for path in layers.stack.paths]) as mount:
        shown = {
            path: fact._replace(
                xattrs={n: v for n, v in fact.xattrs.items() if "overlay." not in n}, atime=None
            )
            for path, fact in facts(mount).items()
        }
    in_place = facts(layers.tree, atime=False)
    implied = shown[b"gone"].mtime
    assert_same({**in_place, b"gone": in_place[b"gone"]._replace(mtime=implied)}, shown)


def test_what_is_below_is_not_asked_for_while_all_folders_have_entries(tmp_path: Path) -> None:
    require_root()
    base = tmp_path / "base"
    apply(base, BASE)
    layer = [
        folder("dir"), entry("dir/new", b"1"), folder("dir/sub"), entry("dir/sub/.wh.deep"),
        entry(".wh.up"), entry("dir/sub/.wh..wh..opq"), folder("new"), entry("new/.wh.x"),
        hard("new/er", "dir/new"), entry("new", kind="symlink", target="dir"), entry("new/2"),
        folder("zero"), entry("last"),
    ]  # fmt: skip

    def never() -> Stack:
        raise AssertionError

    apply(tmp_path / "1", tar(folder("./"), *layer), below=never)
    asked = []

    def at_last() -> Stack:
        asked.append((tmp_path / "2/last").exists())
        return Stack((), os.fsencode(base))

    apply(tmp_path / "2", tar(*layer), below=at_last)
    assert asked == [True]
    assert facts(tmp_path / "2")[b"."] == facts(base)[b"."]._replace(
        xattrs=facts(tmp_path / "2")[b"."].xattrs
    )


def test_folders_without_an_entry_are_made_before_it_is_known_what_they_are_below(
    tmp_path: Path,
) -> None:
    require_root()
    base = [
        folder("a", mode=0o2750, uid=5), folder("a/b", mode=0o1777, gid=6), entry("a/b/old"),
        folder("c"), entry("c/x"), entry("link", kind="symlink", target="c"),
    ]  # fmt: skip
    layer = [entry("a/b/new"), entry("c/.wh.x"), entry("made/here/x"), entry("a/b/sub/y")]
    apply(tmp_path / "base", tar(*base))
    difference = tmp_path / "difference"

    def below() -> Stack:
        made = {os.fsdecode(path) for path in facts(difference)}
        assert {"a/b/new", "c/x", "made/here/x", "a/b/sub/y"} <= made
        return Stack((), os.fsencode(tmp_path / "base"))

    apply(difference, tar(*layer), below=below)
    told, there = facts(difference, atime=False), facts(tmp_path / "base", atime=False)
    for path in (b".", b"a", b"a/b", b"c"):
        assert told[path]._replace(xattrs={}) == there[path]
    (tmp_path / "layers").mkdir()
    layers = Layers(tmp_path / "layers", tar(*base))
    layers.apply(tar(*layer))
    # Where it turns out to be no folder, all is made anew.
    difference = layers.apply(tar(entry("n"), entry("link/z"), entry(".wh.made"), folder("c")))
    assert not (difference / "link").exists()
    assert (difference / "c/z").exists()


def test_layers_are_applied_side_by_side(tmp_path: Path) -> None:
    """Each waits for the one below it only where it needs it."""
    require_root()
    layers = [
        tar(folder("dir", mtime=n), *[entry(f"dir/{n}-{i}", b"x" * 9000) for i in range(300)])
        for n in range(4)
    ]
    apply(tmp_path / "base", BASE)
    done = [threading.Event() for _ in layers]

    def below(number: int) -> Stack:
        if number:
            assert done[number - 1].wait(60)
        paths = tuple(os.fsencode(tmp_path / str(n)) for n in reversed(range(number)))
        return Stack(paths, os.fsencode(tmp_path / "base"))

    def unpack(number: int) -> None:
        apply(tmp_path / str(number), layers[number], below=lambda: below(number))
        done[number].set()

    threads = [threading.Thread(target=unpack, args=(n,)) for n in reversed(range(4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for layer in layers:
        apply(tmp_path / "in place", BASE) if layer is layers[0] else None
        apply(tmp_path / "in place", layer)
    expected = facts(tmp_path / "in place", atime=False)
    for number in range(4):
        found = facts(tmp_path / str(number), atime=False)
        assert_same(
            {path: fact for path, fact in found.items() if path not in (b".", b"dir")},
            {path: fact for path, fact in expected.items() if path.startswith(b"dir/%d-" % number)},
        )


def test_a_root_with_something_in_it_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/file").touch()
    with pytest.raises(OperationError, match="not empty"):
        apply(tmp_path / "root", tar(), below=lambda: Stack((), os.fsencode(tmp_path)))


def test_a_layer_below_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="missing: open: No such file"):
        apply(tmp_path / "root", tar(), below=lambda: Stack((), os.fsencode(tmp_path / "missing")))


def test_an_error_of_what_is_below_comes_through_and_leaves_nothing_open(tmp_path: Path) -> None:
    def fail() -> Stack:
        raise LookupError

    apply(tmp_path / "base", tar(folder("dir"), entry("file"), hard("twin", "file")))
    open_before = len(os.listdir("/proc/self/fd"))
    for number, layer in enumerate((tar(), tar(entry("dir/file")))):
        with pytest.raises(LookupError):
            apply(tmp_path / f"{number}", layer, below=fail)
    stack = Stack((), os.fsencode(tmp_path / "base"))
    for number, last in enumerate((entry("file/x"), hard("x", "none"), entry("n" * 300))):
        layer = tar(entry("dir/x"), hard("y", "twin"), entry("a/.wh.b"), last)
        with pytest.raises(ArchiveError):
            apply(tmp_path / f"last-{number}", layer, below=lambda: stack)
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_files_that_come_in_folders_of_their_layer_are_made_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reflayer.archive import files

    if files._make_files is None:
        pytest.skip("it needs the part in C")
    made: list[int] = []
    make_files = files._make_files

    def counted(data: memoryview, withheld: int, names: tuple[object, ...], first: int) -> int:
        count: int = make_files(data, withheld, names, first)
        made.append(count)
        return count

    monkeypatch.setattr(files, "_make_files", counted)
    layer = tar(folder("./"), *[e for n in range(9) for e in (
        folder(f"{n}"), *[entry(f"{n}/{i}", b"x") for i in range(100)])])  # fmt: skip
    (tmp_path / "base").mkdir()
    apply(tmp_path / "root", layer, below=lambda: Stack((), os.fsencode(tmp_path / "base")))
    assert sum(made) == 900


def test_ids_of_a_container_are_the_host_s(place: Path) -> None:
    ids = IdMap((IdRange(0, 100_000, 65_536),), (IdRange(0, 200_000, 65_536),))
    layers = Layers(place, tar(folder("dir", uid=100_000, gid=200_000), entry("dir/file", uid=7)))
    difference = place / "difference"
    difference.mkdir()
    layer = tar(entry("new/file", b"123", uid=5, gid=6), hard("dir/file-2", "dir/file", uid=9),
                entry("zero", kind="char", device=(0, 0), uid=1, gid=1))  # fmt: skip
    with tempfile.TemporaryFile() as stream:
        stream.write(layer)
        stream.seek(0)
        size = apply_stream(difference, stream, id_map=ids, below=lambda: layers.stack)
    assert size == 3
    assert {path: fact.owner for path, fact in facts(difference).items() if path != b"."} == {
        b"dir": (100_000, 200_000), b"dir/file": (100_009, 200_000),
        b"dir/file-2": (100_009, 200_000), b"new": (100_000, 200_000),
        b"new/file": (100_005, 200_006), b"zero": (100_001, 200_001),
    }  # fmt: skip


PACKED = [
    [folder("./", mode=0o700), folder("dir"), entry("dir/.wh.file"), entry("dir/new", b"1")],
    [entry(".wh.dir"), entry(".wh.none"), entry("new", b"1"), hard("newer", "new")],
    [folder("dir"), entry("dir/.wh..wh..opq"), entry("dir/new", b"1")],
    [entry("dir/sub/new", b"1"), entry("x/y/z", b"2")],
    [entry("dir", b"1"), entry("x", kind="char", device=(0, 0)), folder("y", pax=ATTRIBUTES)],
]


@pytest.mark.parametrize("layer", PACKED)
def test_a_difference_packs_back_to_its_layer(layer: list[Entry], place_on: PlaceOn) -> None:
    import io
    import tarfile

    place = place_on("ext4")
    difference = Layers(place, BASE).apply(tar(*layer))
    packed = io.BytesIO(b"".join(pack_difference(difference)))
    with tarfile.open(fileobj=packed) as archive:
        found = {(info.name, info.type, info.linkname) for info in archive}
    with tarfile.open(fileobj=io.BytesIO(tar(*layer))) as archive:
        assert found == {(info.name, info.type, info.linkname) for info in archive}


@pytest.fixture
def home(place_on: PlaceOn) -> Path:
    """A folder for the unprivileged user, on a file system that has attributes."""
    require_root()
    return place_on("ext4")


def mine(name: str, data: bytes = b"", *, mode: int = 0o755, **fields: Any) -> Entry:
    """An entry of the unprivileged user's."""
    return entry(name, data, mode=mode, uid=NOBODY, gid=NOBODY, **fields)


def test_an_ordinary_user_makes_differences_as_well(home: Path) -> None:
    base = tar(
        mine("./", kind="folder"), mine("dir", kind="folder", pax={xattr("user.x"): "1"}),
        mine("dir/one", b"1"), mine("two", kind="link", target="dir/one"), mine("dir/gone"),
        mine("zero", kind="char", device=(0, 0)), mine("sub", kind="folder"), mine("sub/old"),
    )  # fmt: skip
    layer = tar(
        mine("dir/.wh.gone"), mine("dir/new", b"2"), mine("three", kind="link", target="two"),
        mine("four", kind="char", device=(0, 0), mode=0o400), mine("sub", kind="folder"),
        mine("sub/.wh..wh..opq"), mine("five", kind="link", target="zero"),
        mine("own", pax={xattr("user.overlay.opaque"): "y"}),
    )  # fmt: skip
    difference = as_nobody(home, lambda: Layers(Path(), base).apply(layer))
    told = facts(home / difference)
    assert told[b"sub"].xattrs == {"user.overlay.opaque": b"y"}
    assert told[b"dir/gone"].type == stat.S_IFCHR
    assert told[b"own"].xattrs == {"user.overlay.overlay.opaque": b"y"}
    assert told[b"five"].links == 2


def test_what_the_kernel_refuses_hides_what_is_below_all_the_same(home: Path) -> None:
    base = tar(mine("disk", b"1"), mine("dir", kind="folder"), mine("dir/disk", b"2"))
    layer = tar(
        mine("disk", kind="block", device=(8, 0)), mine("again", kind="link", target="disk"),
        mine("dir/disk", kind="block", device=(8, 0)), mine("dir/file", b"3"),
    )  # fmt: skip
    as_nobody(home, lambda: Layers(Path(), base).apply(layer, ownership="ignore"))
    assert facts(home / "union-1").keys() == {b".", b"dir", b"dir/file"}


def test_folders_that_shut_their_owner_out_are_no_hindrance(home: Path) -> None:
    base = tar(mine("shut", mode=0o500, kind="folder"), mine("shut/in", mode=0o500, kind="folder"))
    layer = tar(
        *[mine(f"other-{n}", mode=0, kind="folder") for n in range(80)],
        *[mine(f"other-{n}/{name}", b"1") for name in ("a", "b") for n in range(80)],
        mine("shut/in/new", b"2"), mine("shut/new/er"), mine("other-3/.wh.c"),
        mine("last", kind="link", target="shut/in/new"),
    )  # fmt: skip

    def run() -> Path:
        apply(Path("base"), base)
        apply(Path("root"), layer, below=lambda: Stack((), b"base"))
        return Path("root")

    told = facts(home / as_nobody(home, run))
    assert told[b"shut"].mode == told[b"shut/in"].mode == 0o500
    assert [told[b"other-%d" % n].mode for n in range(80)] == [0] * 80
    assert told[b"last"].twin == b"last"
    assert told[b"other-3/c"].type == stat.S_IFCHR


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
MAKES = ["file", "file", "folder", "folder", "folder", "symlink", "link", "link", "char", "zero",
         "fifo"]  # fmt: skip
HIDES = ["whiteout", "whiteout", "whiteout", "opaque"]
Item = tuple[str, str, str, int, int, dict[str, str]]


def items(kinds: list[str]) -> st.SearchStrategy[list[Item]]:
    """Entries of a layer, as far as each can be told alone."""
    targets = st.tuples(st.sampled_from(["", "/", "../", "x/../"]), PATHS).map("".join)
    pax = st.dictionaries(
        st.sampled_from(["trusted.x", "trusted.overlay.opaque", "trusted.overlay.reflayer.device"]),
        st.sampled_from(["y", "z"]), max_size=1,
    )  # fmt: skip
    return st.lists(
        st.tuples(st.sampled_from(kinds), PATHS, targets, st.sampled_from([0o600, 0o4711, 0o2777]),
                  st.integers(0, 9), pax), max_size=10,
    )  # fmt: skip


def made_of(items: list[Item], names: list[str]) -> bytes:
    """A layer; its hard links are to ``names``, which get those that it makes."""
    entries = []
    for kind, path, target, mode, number, pax in items:
        above, _, name = path.rpartition("/")
        if kind == "whiteout":
            entries.append(entry(f"{above}/.wh.{name}".lstrip("/")))
        elif kind == "opaque":
            entries.append(entry(f"{path if number else ''}/.wh..wh..opq".lstrip("/")))
        elif kind != "link" or names:
            entries.append(
                entry(
                    "./" if kind == "folder" and number == 9 else path,
                    bytes([number]) * number if kind == "file" else b"",
                    kind="char" if kind == "zero" else kind,
                    target=names[number % len(names)] if kind == "link" else target,
                    mode=mode,
                    uid=number % 2,
                    mtime=number + 0.25,
                    device=(0, 0) if kind == "zero" else (1, 3),
                    pax={xattr(attribute): value for attribute, value in pax.items()},
                )
            )
            if kind not in ("folder", "link"):
                names.append(path)
    return tar(*entries)


@settings(max_examples=150, deadline=None)
@given(base=items(MAKES), uppers=st.lists(items([*MAKES, *HIDES]), min_size=1, max_size=3))
def test_random_layers_make_the_same_in_both_ways(
    base: list[Item], uppers: list[list[Item]]
) -> None:
    require_root()  # devices and owners are among all that is made
    place = Path(tempfile.mkdtemp(prefix="reflayer-test-"))
    names: list[str] = []
    try:
        try:
            layers = Layers(place, made_of(base, names))
            for upper in uppers:
                layers.apply(made_of(upper, names))
        except (ArchiveError, OperationError):
            return  # a path or link leads nowhere; in both ways, as it should
    finally:
        shutil.rmtree(place)
