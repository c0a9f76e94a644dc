"""Random edits of random trees: told as they are, and made again by applying their layer."""

from __future__ import annotations

import io
import itertools
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflayer.archive import apply_layer, changes, pack_layer
from reflayer.copy import copy_tree, remove_tree
from tests.file_systems import require_root
from tests.random_trees import IDS, LEAVES, NAMES, TIMES, TREES, Tree, make_one
from tests.random_trees import make_tree as make
from tests.trees import Facts, assert_same, facts

_numbers = itertools.count()
_which = st.integers(0, 1000)
_few_names = st.one_of(st.sampled_from([b"a", b"b", b"ab"]), NAMES)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("remove"), _which),
        st.tuples(st.just("put"), _which, _few_names, st.one_of(LEAVES, TREES)),
        st.tuples(st.just("replace"), _which, st.one_of(LEAVES, TREES)),
        st.tuples(st.just("rewrite"), _which),
        st.tuples(st.just("touch"), _which, TIMES),
        st.tuples(st.just("chmod"), _which, st.integers(0, 0o7777)),
        st.tuples(st.just("chown"), _which, IDS),
        st.tuples(st.just("setxattr"), _which, st.binary(max_size=20)),
        st.tuples(st.just("link"), _which, _which, _few_names),
        st.tuples(st.just("move"), _which, _which, _few_names),
        st.tuples(st.just("part"), _which),
    ),
    max_size=8,
)
Edit = tuple[Any, ...]


def paths(root: bytes) -> list[bytes]:
    """The root and all in it, sorted."""
    found = [root]
    for folder, folders, files in os.walk(root):
        found += [os.path.join(folder, name) for name in folders + files]
    return sorted(found)


def is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def remove(path: bytes) -> None:
    if is_folder(path):
        remove_tree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def edit(root: bytes, action: str, which: int, *details: Any) -> None:
    """Do one edit in ``root``; one that is not possible is left out."""
    found = paths(root)
    path = found[which % len(found)]
    folders = [path for path in found if is_folder(path)]
    match action, details:
        case "put", (name, content):
            target = folders[which % len(folders)] + b"/" + name
            remove(target)
            files = [path for path in found if os.path.lexists(path) and not is_folder(path)]
            make_one(target, content, files)
        case "touch", (when,):
            os.utime(path, ns=(when, when), follow_symlinks=False)
        case "chmod", (mode,) if not os.path.islink(path):
            os.chmod(path, mode)
        case "chown", (owner,):
            os.chown(path, owner, owner, follow_symlinks=False)
        case "setxattr", (value,):
            os.setxattr(path, "trusted.a", value, follow_symlinks=False)
        case "rewrite", () if os.path.isfile(path) and not os.path.islink(path):
            rewrite(path)
        case "remove", () if path != root:
            remove(path)
        case "replace", (content,) if path != root:
            remove(path)
            make_one(path, content, [])
        case "link", (where, name) if not is_folder(path):
            target = folders[where % len(folders)] + b"/" + name
            if target != path:
                remove(target)
                if os.path.lexists(path):
                    os.link(path, target, follow_symlinks=False)
        case "move", (where, name) if path != root:
            target = folders[where % len(folders)] + b"/" + name
            if not (target + b"/").startswith(path + b"/") and not path.startswith(target + b"/"):
                remove(target)
                os.rename(path, target)
        case "part", () if os.path.isfile(path) and not os.path.islink(path):
            part(path)
        case _:
            pass


def rewrite(path: bytes) -> None:
    """Change a byte of a file, its size and time being as before."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]) if first else b"")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def part(path: bytes) -> None:
    """Give one name of a file an inode of its own that is otherwise the same."""
    copy_tree_of = path + b"~part"
    with open(path, "rb") as file, open(copy_tree_of, "xb") as other:
        other.write(file.read())
    status = os.stat(path)
    os.chown(copy_tree_of, status.st_uid, status.st_gid)
    for name in os.listxattr(path):
        os.setxattr(copy_tree_of, name, os.getxattr(path, name))
    os.chmod(copy_tree_of, stat.S_IMODE(status.st_mode))
    os.utime(copy_tree_of, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(copy_tree_of, path)


def without_sockets(told: Mapping[bytes, Facts]) -> Mapping[bytes, Facts]:
    return {path: fact for path, fact in told.items() if fact.type != stat.S_IFSOCK}


def expected(old: Mapping[bytes, Facts], new: Mapping[bytes, Facts]) -> list[tuple[str, str]]:
    """What Docker's diff has to say, found out in another way."""
    kinds: dict[bytes, str] = {}
    for path in old.keys() | new.keys():
        above = path.rpartition(b"/")[0] or b"."
        if path not in new:
            if above in new and new[above].type == stat.S_IFDIR:
                kinds[path] = "D"
        elif path not in old:
            kinds[path] = "A"
        elif _said(old[path]) != _said(new[path]):
            kinds[path] = "C"
    for path in list(kinds):
        while path := path.rpartition(b"/")[0]:
            kinds.setdefault(path, "C")
    kinds.pop(b".", None)
    paths = sorted(kinds, key=lambda p: p.split(b"/"))
    return [(kinds[path], os.fsdecode(b"/" + path)) for path in paths]


def _said(fact: Facts) -> Facts:
    return fact._replace(links=0, twin=b"")


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "tmpfs"])
def test_random_edits_are_told_and_applied(file_system: Callable[[str], Path], kind: str) -> None:
    require_root()
    place = file_system(kind)

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(TREES, EDITS)
    def check(tree: Tree, edits: list[Edit]) -> None:
        here = place / f"changes-{next(_numbers)}"
        parent, clone, other = here / "parent", here / "clone", here / "other"
        try:
            parent.mkdir(parents=True)
            make(os.fsencode(parent), tree, [])
            copy_tree(parent, clone)
            time.sleep(0.03)
            cloned = time.time()
            assert list(changes(clone, parent)) == []
            assert list(changes(clone, parent, cloned=cloned)) == []
            assert pack(clone, parent) == bytes(1024)

            for one in edits:
                edit(os.fsencode(clone), *one)
            old, new = facts(parent, atime=False), facts(clone, atime=False)

            told = [(change.kind, change.path) for change in changes(clone, parent)]
            assert told == expected(old, new)
            told = [(c.kind, c.path) for c in changes(clone, parent, cloned=cloned)]
            assert told == expected(old, new)

            layer = pack(clone, parent)
            assert layer == pack(clone, parent, cloned=cloned)
            copy_tree(parent, other)
            apply_layer(other, io.BytesIO(layer))
            assert_same(without_sockets(new), without_sockets(facts(other, atime=False)))
        finally:
            remove_tree(here)

    check()


def pack(clone: Path, parent: Path, **options: Any) -> bytes:
    return b"".join(pack_layer(clone, parent, **options))
