"""Random trees of every type and any name, as values and as files."""

from __future__ import annotations

import os
import stat
from typing import Any

from hypothesis import strategies as st

Tree = dict[bytes, Any]

NAMES = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.text("ab.~ \n", min_size=1, max_size=5).map(str.encode),
).filter(lambda name: name not in (b".", b"..") and not set(name) & set(b"/\0"))
TIMES = st.integers(-(2**31) * 10**9, 2**33 * 10**9)
IDS = st.sampled_from([0, 1, 1000, 2**32 - 2])
_metadata = st.tuples(IDS, IDS, st.integers(0, 0o7777), TIMES, TIMES)
_attributes = st.dictionaries(
    st.sampled_from(["trusted.a", "trusted.b", "trusted.c"]), st.binary(max_size=40), max_size=2
)
LEAVES = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=5000)),
    st.tuples(st.just("sparse"), st.integers(0, 1 << 24)),
    st.tuples(st.just("symlink"), st.binary(min_size=1, max_size=200).filter(lambda t: 0 not in t)),
    st.tuples(st.just("device"), st.booleans(), st.integers(0, 511), st.integers(0, 2**18 - 1)),
    st.tuples(st.sampled_from(["fifo", "socket"]), st.none()),
    st.tuples(st.just("twin"), st.integers(0, 50)),
)
_entries = st.tuples(_metadata, _attributes)
TREES = st.recursive(
    st.dictionaries(NAMES, st.tuples(_entries, LEAVES), max_size=6),
    lambda inner: st.dictionaries(NAMES, st.tuples(_entries, st.one_of(LEAVES, inner)), max_size=8),
    max_leaves=40,
)


def make_tree(folder: bytes, tree: Tree, made: list[bytes]) -> None:
    """Make ``tree`` in ``folder``, which is there; ``made`` gets the paths of what is no folder."""
    for name, (entry, content) in tree.items():
        path = folder + b"/" + name
        make_one(path, content, made)
        (uid, gid, mode, atime, mtime), attributes = entry
        os.chown(path, uid, gid, follow_symlinks=False)
        for attribute, value in attributes.items():
            os.setxattr(path, attribute, value, follow_symlinks=False)
        if not os.path.islink(path):
            os.chmod(path, mode)
        os.utime(path, ns=(atime, mtime), follow_symlinks=False)
        if not isinstance(content, dict):
            made.append(path)


def make_one(path: bytes, content: object, made: list[bytes]) -> None:
    """Make what one of ``LEAVES`` says, or a folder, as ``path``."""
    match content:
        case dict():
            os.mkdir(path)
            make_tree(path, content, made)
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
