"""Any tree comes out the same, and the report does not tell how many hands made it."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer.copy import Pool, copy_tree, remove_tree
from tests.trees import assert_same, facts

_numbers = itertools.count()

_names = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.text("ab.~ \n", min_size=1, max_size=5).map(str.encode),
).filter(lambda name: name not in (b".", b"..") and not set(name) & set(b"/\0"))
_times = st.integers(-(2**31) * 10**9, 2**33 * 10**9)
_ids = st.sampled_from([0, 1, 1000, 2**32 - 2])
_metadata = st.tuples(_ids, _ids, st.integers(0, 0o7777), _times, _times)
_attributes = st.dictionaries(
    st.sampled_from(["trusted.a", "security.b", "trusted.c"]), st.binary(max_size=40), max_size=2
)
_leaves = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=5000)),
    st.tuples(st.just("sparse"), st.integers(0, 1 << 24)),
    st.tuples(st.just("symlink"), st.binary(min_size=1, max_size=200).filter(lambda t: 0 not in t)),
    st.tuples(st.just("device"), st.booleans(), st.integers(0, 511), st.integers(0, 2**18 - 1)),
    st.tuples(st.sampled_from(["fifo", "socket"]), st.none()),
    st.tuples(st.just("twin"), st.integers(0, 50)),
)
_entries = st.tuples(_metadata, _attributes)
_trees = st.recursive(
    st.dictionaries(_names, st.tuples(_entries, _leaves), max_size=6),
    lambda inner: st.dictionaries(
        _names, st.tuples(_entries, st.one_of(_leaves, inner)), max_size=8
    ),
    max_leaves=40,
)


def _make(folder: bytes, tree: dict, made: list[bytes]) -> None:  # type: ignore[type-arg]
    for name, (entry, content) in tree.items():
        path = folder + b"/" + name
        _make_one(path, content, made)
        (uid, gid, mode, atime, mtime), attributes = entry
        os.chown(path, uid, gid, follow_symlinks=False)
        for attribute, value in attributes.items():
            os.setxattr(path, attribute, value, follow_symlinks=False)
        if not os.path.islink(path):
            os.chmod(path, mode)
        os.utime(path, ns=(atime, mtime), follow_symlinks=False)
        if not isinstance(content, dict):
            made.append(path)


def _make_one(path: bytes, content: object, made: list[bytes]) -> None:
    match content:
        case dict():
            os.mkdir(path)
            _make(path, content, made)
        case ("file", bytes() as data):
            with open(path, "xb") as file:
                file.write(data)
        case ("sparse", int() as size):
            with open(path, "xb") as file:
                file.truncate(size)
        case ("symlink", bytes() as target):
            os.symlink(target, path)
        case ("device", is_char, int() as major, int() as minor):
            os.mknod(path, stat.S_IFCHR if is_char else stat.S_IFBLK, os.makedev(major, minor))
        case ("fifo", _):
            os.mkfifo(path)
        case ("socket", _):
            os.mknod(path, stat.S_IFSOCK)
        case ("twin", int() as number) if made:
            os.link(made[number % len(made)], path, follow_symlinks=False)
        case _:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "tmpfs"])
def test_any_tree_by_any_hands(
    file_system: Callable[[str], Path], kind: str, warm_pool: Pool
) -> None:
    place = file_system(kind)

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(_trees)
    def check(tree: dict) -> None:  # type: ignore[type-arg]
        here = place / f"random-{next(_numbers)}"
        try:
            (here / "src").mkdir(parents=True)
            _make(os.fsencode(here / "src"), tree, [])
            before = facts(here / "src")

            one = copy_tree(here / "src", here / "one", workers=1)
            many = copy_tree(here / "src", here / "many", workers=3, pool=warm_pool)
            tar = copy_tree(here / "src", here / "tar", method="tar")

            assert_same(before, facts(here / "one"))
            assert_same(before, facts(here / "many"))
            assert_same(before, facts(here / "src"))
            sockets = {path for path, told in before.items() if told.type == stat.S_IFSOCK}
            assert_same(
                {path: told for path, told in before.items() if path not in sockets},
                facts(here / "tar"),
            )
            assert (one.entries, one.bytes, one.skipped) == (many.entries, many.bytes, many.skipped)
            assert sum(one.entries.values()) == len(before)
            assert tar.skipped.get("socket", 0) == len(sockets)
        finally:
            remove_tree(here)

    check()
