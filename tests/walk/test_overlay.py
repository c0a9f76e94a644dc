"""What a difference has is overlayfs' form, as the kernel reads it, and any user may write it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflayer.walk.facts import list_attributes
from reflayer.walk.overlay import (
    WHITEOUT_MODE,
    Marks,
    difference_attributes,
    is_device,
    is_implied,
    is_opaque,
    is_whiteout,
    tree_attributes,
)
from tests.archive.tars import as_nobody
from tests.file_systems import require_root
from tests.random_stacks import overlay

_spaces = st.sampled_from(["trusted.", "user.", "security.", ""])
_words = st.lists(st.sampled_from(["overlay", "opaque", "reflayer", "device", "x"]), max_size=4)
_attributes = st.dictionaries(
    st.tuples(_spaces, _words).map(lambda parts: parts[0] + ".".join(parts[1])), st.binary()
)


@given(_attributes)
def test_all_attributes_of_a_tree_come_back_from_a_difference(tree: dict[str, bytes]) -> None:
    own = {"trusted.overlay.opaque": b"y", "user.overlay.reflayer.implied": b"y"}
    escaped = difference_attributes(tree)
    assert tree_attributes(escaped) == tree
    assert tree_attributes({**escaped, **own}) == tree
    assert not is_implied(escaped)
    assert not is_device(escaped)


@pytest.fixture
def place(place: Path) -> Path:
    """An empty folder on each file system in turn."""
    require_root()
    return place


def marked(place: Path) -> list[object]:
    """Make what a difference may have in ``place``, and tell what it is then."""
    for name in ("opaque", "implied"):
        (place / name).mkdir()
    (place / "device").touch()
    os.mknod(place / "whiteout", WHITEOUT_MODE)
    folder = os.open(place, os.O_RDONLY)
    marks = Marks(folder)
    marks.set_opaque(bytes(place / "opaque"))
    marks.set_implied(bytes(place / "implied"))
    marks.set_device(bytes(place / "device"))
    assert marks.device.keys() == {*list_attributes(bytes(place / "device"))}
    told = [
        is_whiteout(os.lstat(place / "whiteout")),
        is_opaque(bytes(place / "opaque")),
        is_implied(list_attributes(bytes(place / "implied"))),
        is_device(list_attributes(bytes(place / "device"))),
    ]
    assert not is_opaque(bytes(place / "implied"))
    marks.clear_implied(bytes(place / "implied"))
    marks.clear_implied(bytes(place / "implied"))
    names = [list_attributes(bytes(place / name)) for name in ("", "implied", "opaque")]
    os.close(folder)
    return [*told, *names]


def test_root_sets_trusted_attributes(place: Path) -> None:
    assert marked(place) == [True] * 4 + [[], [], ["trusted.overlay.opaque"]]


def test_an_ordinary_user_sets_user_attributes_and_makes_whiteouts(place: Path) -> None:
    expected = [True] * 4 + [[], [], ["user.overlay.opaque"]]
    assert as_nobody(place, lambda: marked(place)) == expected


def test_what_a_user_set_is_known_to_root(place: Path) -> None:
    as_nobody(place, lambda: marked(place))
    assert is_opaque(bytes(place / "opaque"))
    assert is_device(list_attributes(bytes(place / "device")))


def test_where_nobody_may_set_attributes_no_difference_can_be(place: Path) -> None:
    (place / "theirs").mkdir()

    def try_marks() -> None:
        folder = os.open(place / "theirs", os.O_RDONLY)
        Marks(folder)

    with pytest.raises(PermissionError):
        as_nobody(place, try_marks)
    proc = os.open("/proc/self", os.O_RDONLY)
    with pytest.raises(OSError, match=r"not permitted|not supported"):
        Marks(proc)
    os.close(proc)


def test_another_device_is_no_whiteout(place: Path) -> None:
    for name, kind, device in (("null", stat.S_IFCHR, 0x103), ("block", stat.S_IFBLK, 0)):
        os.mknod(place / name, kind, device)
        assert not is_whiteout(os.lstat(place / name))


def test_the_kernel_shows_what_a_tree_has(place_on: Callable[[str], Path]) -> None:
    """Its whiteouts and opaque folders hide, and escaped attributes are the tree's."""
    require_root()
    place = place_on("xfs")
    lower, upper = place / "lower", place / "upper"
    for name in ("folder/hidden", "gone", "stays"):
        (lower / name).mkdir(parents=True)
    (upper / "folder").mkdir(parents=True)
    os.mknod(upper / "gone", WHITEOUT_MODE)
    os.setxattr(upper / "folder", "trusted.overlay.opaque", b"y")
    tree = {"trusted.overlay.opaque": b"y", "trusted.overlay.overlay.x": b"z", "user.x": b""}
    for name, value in difference_attributes(tree).items():
        os.setxattr(upper / "folder", name, value)
    with overlay(place, [upper, lower]) as mount:
        assert sorted(path.name for path in mount.rglob("*")) == ["folder", "stays"]
        found = {
            name: os.getxattr(mount / "folder", name) for name in os.listxattr(mount / "folder")
        }
        assert found == tree
