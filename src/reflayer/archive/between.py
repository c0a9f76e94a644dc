"""What lies between two stacks is added to what changed in a clone of the one, to make the other.

Whatever the stacks do not share is a difference that one of them has and the other has not, and but
for what these have both trees are the same. So what they have, or hide, is taken for changed: where
the clone has something of that name it goes, and is made as the other stack has it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from reflayer.archive.untouched import UNKNOWN
from reflayer.walk.folders import OPEN_ANY_FOLDER, names_in, open_beneath, open_noatime
from reflayer.walk.overlay import is_opaque
from reflayer.walk.stack import opened_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from reflayer.archive.untouched import Scan
    from reflayer.walk.stack import Union

    Names = dict[bytes, dict[bytes, bool]]
    """By the path of a folder the names in it; whether each only is on the way to others."""


def add_between(scan: Scan, top: int, target: Union, differences: Iterable[bytes]) -> None:
    """Add to what ``scan`` has found in the open folder ``top`` what differences have.

    Args:
        scan: of a clone of a stack.
        top: the clone.
        target: the root of another stack.
        differences: paths of all that one of the two has and the other has not.
    """
    names: Names = {b"": {}}
    for path in differences:
        fd = open_noatime(path, None, OPEN_ANY_FOLDER)
        try:
            _gather(fd, names)
        finally:
            os.close(fd)
    others: set[bytes] = set()
    touched = {*scan.touched}
    todo = [b""]
    while todo:
        path = todo.pop()
        touched.add(path)
        found, folders = _in_clone(top, path, names[path])
        with opened_in(target, path) as there:
            for name in folders:
                at = os.path.join(path, name)
                wanted = there.find(name) if names[path][name] and at not in scan.others else None
                if wanted is not None and stat.S_ISDIR(wanted[1].st_mode):
                    todo.append(at)
                else:
                    others.add(at)
        if found:
            scan.stale[path] = dict.fromkeys(found, UNKNOWN) | scan.stale.get(path, {})

    def goes(path: bytes) -> bool:
        """Whether a folder, or one that it is in, is made anew."""
        while path and path not in others:
            path = path.rpartition(b"/")[0]
        return path in others

    scan.touched = {path for path in touched if not goes(path)}
    scan.stale = {path: found for path, found in scan.stale.items() if not goes(path)}
    scan.linked[:] = [(path, name) for path, name in scan.linked if not goes(path)]
    scan.others = others | {path for path in scan.others if not goes(path)}


def _gather(root: int, names: Names) -> None:
    """Note the names of a difference that is open."""
    todo = [b""]
    while todo:
        path = todo.pop()
        here = names.setdefault(path, {})
        fd = open_beneath(root, path)
        try:
            for name in names_in(fd):
                is_way = stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode)
                if is_way:
                    inside = open_beneath(fd, name)
                    try:
                        is_way = not is_opaque(inside)
                    finally:
                        os.close(inside)
                here[name] = is_way and here.get(name, True)
                if is_way:
                    todo.append(os.path.join(path, name))
        finally:
            os.close(fd)


def _in_clone(top: int, path: bytes, names: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Those of the names that a folder has, by whether they are folders."""
    found: list[bytes] = []
    folders: list[bytes] = []
    fd = open_beneath(top, path, cross_mounts=False)
    try:
        for name in names:
            with suppress(FileNotFoundError):
                is_folder = stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode)
                (folders if is_folder else found).append(name)
    finally:
        os.close(fd)
    return found, folders
