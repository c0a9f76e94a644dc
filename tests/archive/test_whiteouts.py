"""Whiteouts hide what lower layers have, and never what their own layer has, in any order."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from reflayer.errors import ArchiveError
from tests.archive.tars import Entry, apply, entry, folder, tar
from tests.trees import facts

pytestmark = pytest.mark.usefixtures("both_ways")

LOWER = tar(
    folder("dir", mode=0o700, mtime=5),
    entry("dir/file", b"lower"),
    folder("dir/sub"),
    entry("dir/sub/deep", b"lower"),
    entry("dir/link", kind="symlink", target="file"),
    entry("file", b"lower"),
)


def names(root: Path) -> set[str]:
    """Every path in the tree, and its content where it is a file's."""
    told = set()
    for path in facts(root):
        place = root / path.decode()
        content = place.read_text() if place.is_file() and not place.is_symlink() else ""
        told.add(path.decode() + (f"={content}" if content else ""))
    return told - {"."}


def test_files_folders_and_links_are_hidden(place: Path) -> None:
    apply(place / "root", LOWER)
    apply(place / "root", tar(entry("dir/.wh.file"), entry("dir/.wh.sub"), entry("dir/.wh.link")))
    assert names(place / "root") == {"dir", "file=lower"}


def test_a_folder_without_an_entry_keeps_its_times_when_something_in_it_is_hidden(
    place: Path,
) -> None:
    apply(place / "root", LOWER)
    apply(place / "root", tar(entry("dir/.wh.sub")))
    assert facts(place / "root")[b"dir"].mtime == 5 * 10**9


@pytest.mark.parametrize("name", [".wh.none", "none/.wh.x", "none/.wh..wh..opq", "file/.wh.x",
                                  "dir/link/.wh.x", "dir/link/x/.wh..wh..opq"])  # fmt: skip
def test_a_whiteout_of_what_is_not_there_is_no_error(name: str, tmp_path: Path) -> None:
    apply(tmp_path / "root", LOWER)
    before = facts(tmp_path / "root", atime=False)
    apply(tmp_path / "root", tar(entry(name)))
    assert facts(tmp_path / "root", atime=False) == before


def every_order(*entries: Entry) -> list[bytes]:
    """A layer for each order of the entries."""
    return [tar(*order) for order in itertools.permutations(entries)]


@pytest.mark.parametrize(
    "layer",
    every_order(
        entry("dir/.wh..wh..opq"),
        entry("dir/sub/new", b"upper"),
        entry("dir/file", b"upper"),
        entry("dir/added", b"upper"),
    ),
)
def test_an_opaque_folder_keeps_only_its_own_layer_s_entries_in_any_order(
    layer: bytes, tmp_path: Path
) -> None:
    apply(tmp_path / "root", LOWER)
    apply(tmp_path / "root", layer)
    expected = {"dir", "dir/sub", "dir/sub/new=upper", "dir/file=upper", "dir/added=upper"}
    assert names(tmp_path / "root") == expected | {"file=lower"}


@pytest.mark.parametrize(
    "layer",
    every_order(
        entry(".wh.dir"), folder("dir", mode=0o711), entry("dir/sub/new", b"upper"),
        entry("file", b"upper"), entry(".wh.file"),
    ),
)  # fmt: skip
def test_a_whiteout_leaves_what_its_own_layer_makes_in_any_order(
    layer: bytes, tmp_path: Path
) -> None:
    apply(tmp_path / "root", LOWER)
    apply(tmp_path / "root", layer)
    assert names(tmp_path / "root") == {"dir", "dir/sub", "dir/sub/new=upper", "file=upper"}
    assert facts(tmp_path / "root")[b"dir"].mode == 0o711


@pytest.mark.parametrize(
    "layer",
    every_order(entry(".wh..wh..opq"), entry("dir/sub/new", b"upper"), folder("other")),
)
def test_the_root_can_be_opaque(layer: bytes, tmp_path: Path) -> None:
    apply(tmp_path / "root", LOWER)
    apply(tmp_path / "root", layer)
    assert names(tmp_path / "root") == {"dir", "dir/sub", "dir/sub/new=upper", "other"}


def test_a_folder_that_the_layer_replaced_is_its_own(tmp_path: Path) -> None:
    apply(tmp_path / "root", LOWER)
    layer = tar(
        entry("dir", b"", kind="fifo"), folder("dir"), entry("dir/new", b"upper"), folder("dir/in"),
        entry("dir/in/new", b"upper"), entry("dir/.wh..wh..opq"), entry(".wh.dir"),
        entry("dir/in/.wh.new"),
    )  # fmt: skip
    apply(tmp_path / "root", layer)
    expected = {"dir", "dir/new=upper", "dir/in", "dir/in/new=upper", "file=lower"}
    assert names(tmp_path / "root") == expected


def test_a_lower_folder_far_down_that_got_something_is_emptied_around_it(tmp_path: Path) -> None:
    apply(tmp_path / "root", tar(entry("a/b/c/d/e", b"lower"), entry("a/b/x/y", b"lower")))
    apply(tmp_path / "root", tar(entry("a/b/c/new", b"upper"), entry(".wh.a")))
    assert names(tmp_path / "root") == {"a", "a/b", "a/b/c", "a/b/c/new=upper"}


def test_many_folders_of_lower_layers_are_told_apart(tmp_path: Path) -> None:
    old = [entry(f"top/{n}/old", b"lower") for n in range(300)]
    new = [entry(f"top/{n}/new", b"upper") for n in range(300)]
    apply(tmp_path / "root", tar(*old))
    apply(tmp_path / "root", tar(*new[::2], entry(".wh.top"), *new[1::2]))
    assert names(tmp_path / "root") == {"top"} | {
        item for n in range(300) for item in (f"top/{n}", f"top/{n}/new=upper")
    }


def test_a_whiteout_reaches_through_a_link_as_the_container_would(tmp_path: Path) -> None:
    apply(
        tmp_path / "root",
        tar(entry("usr/lib/x", b"1"), entry("lib", kind="symlink", target="/usr/lib")),
    )
    apply(tmp_path / "root", tar(entry("lib/.wh.x"), entry("lib/y", b"2")))
    assert names(tmp_path / "root") == {"usr", "usr/lib", "lib", "usr/lib/y=2"}


def test_the_metadata_of_aufs_are_left_out(tmp_path: Path) -> None:
    apply(tmp_path / "root", LOWER)
    before = names(tmp_path / "root")
    apply(
        tmp_path / "root",
        tar(folder(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", b"x"), entry(".wh..wh.aufs")),
    )
    assert names(tmp_path / "root") == before


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "dir/.wh.", "dir/.wh..", "dir/.wh..."])
def test_a_whiteout_of_a_folder_by_way_of_itself_is_an_error(name: str, tmp_path: Path) -> None:
    apply(tmp_path / "root", LOWER)
    before = names(tmp_path / "root")
    with pytest.raises(ArchiveError, match="whiteout"):
        apply(tmp_path / "root", tar(entry(name)))
    assert names(tmp_path / "root") == before
