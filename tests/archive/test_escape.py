"""Nothing outside the root changes, whatever an archive says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflayer.errors import ArchiveError
from tests.archive.tars import apply, entry, folder, tar
from tests.trees import facts

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the root that must stay as it is."""
    folder_outside = tmp_path / "outside"
    folder_outside.mkdir()
    (folder_outside / "secret").write_text("secret")
    return folder_outside


ESCAPES = ["{out}", "../outside", "x/../../../outside", "/../outside"]


@pytest.mark.parametrize("escape", ESCAPES)
def test_absolute_names_and_dots_stay_inside(escape: str, outside: Path) -> None:
    name = escape.format(out=outside)
    root = outside.parent / "root"
    before = facts(outside, atime=False)
    apply(
        root,
        tar(entry(f"{name}/new", b"x"), entry(f"{name}/secret", b"x"), entry(f"{name}/.wh.secret")),
    )
    apply(root, tar(entry(f"{name}/.wh..wh..opq"), folder(name, mode=0o700)))
    assert facts(outside, atime=False) == before


@pytest.mark.parametrize("escape", ESCAPES)
def test_links_that_point_out_are_followed_inside(escape: str, outside: Path) -> None:
    target = escape.format(out=outside)
    root = outside.parent / "root"
    before = facts(outside, atime=False)
    link = entry("link", kind="symlink", target=target)
    apply(root, tar(link, entry("link/new", b"x"), entry("link/secret", b"x", mode=0o777)))
    apply(root, tar(entry("link/.wh.secret"), entry("link/.wh..wh..opq"), folder("link/deep/er")))
    apply(root, tar(link, folder("link", mode=0o700), entry("link/.wh.secret")))
    assert facts(outside, atime=False) == before
    assert (root / "link").is_dir()
    assert not (root / "link").is_symlink()


@pytest.mark.parametrize("name", ["/{out}/secret", "link/secret", "../outside/secret"])
def test_hard_links_do_not_reach_out(name: str, outside: Path) -> None:
    root = outside.parent / "root"
    before = facts(outside, atime=False)
    link = entry("link", kind="symlink", target=str(outside))
    with pytest.raises(ArchiveError, match="it links to"):
        apply(root, tar(link, entry("got", kind="link", target=name.format(out=outside))))
    assert facts(outside, atime=False) == before


def test_a_link_in_the_middle_of_a_path_leads_where_a_container_would_find_it(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    apply(
        root,
        tar(
            folder("usr/lib"),
            entry("lib", kind="symlink", target="/usr/lib"),
            entry("a/up", kind="symlink", target="../../../usr/./lib/"),
            entry("lib/one", b"1"),
            entry("a/up/two", b"2"),
            entry("new", kind="symlink", target="made/on/demand"),
            entry("new/three", b"3"),
            entry("back", kind="symlink", target="made/../made/on"),
            entry("back/four", b"4"),
        ),
    )
    paths = facts(root).keys()
    assert {b"usr/lib/one", b"usr/lib/two", b"made/on/demand/three", b"made/on/four"} <= paths
    assert (root / "lib").is_symlink()
    assert (root / "new").is_symlink()


def test_a_replaced_link_leads_nowhere_any_more(tmp_path: Path) -> None:
    root = tmp_path / "root"
    apply(
        root,
        tar(
            folder("one"), folder("two"),
            entry("link", kind="symlink", target="one"), entry("link/a"),
            entry("link", kind="symlink", target="two"), entry("link/b"),
            folder("link"), entry("link/c"),
        ),
    )  # fmt: skip
    assert facts(root).keys() == {b".", b"one", b"two", b"link", b"one/a", b"two/b", b"link/c"}


@pytest.mark.parametrize("target", ["loop", "./loop/x", "/loop"])
def test_a_loop_of_links_is_an_error_that_names_the_entry(target: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="loop/file: "):
        apply(tmp_path / "r", tar(entry("loop", kind="symlink", target=target), entry("loop/file")))


def test_a_file_in_the_middle_of_a_path_is_an_error_that_names_the_entry(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"a/b/c: write the file: Not a directory"):
        apply(tmp_path / "r", tar(entry("a"), entry("a/b/c")))


def test_a_root_that_is_a_link_itself_is_the_caller_s_choice(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "root")
    apply(tmp_path / "root", tar(entry("file")))
    assert (tmp_path / "real/file").exists()
