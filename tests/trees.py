"""A tree as a list of facts, to compare two entry by entry; without any code of reflayer."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Facts(NamedTuple):
    """All that must be the same in a copy of one entry."""

    type: int
    mode: int
    owner: tuple[int, int]
    size: int
    mtime: int
    atime: int | None
    device: int
    links: int
    twin: bytes  # the first path of the same inode
    target: bytes
    xattrs: Mapping[str, bytes]
    content: str
    holes: tuple[tuple[int, int], ...]


def facts(root: Path | bytes, *, atime: bool = True, holes: bool = False) -> dict[bytes, Facts]:
    """The facts of every entry below ``root`` by path, the root itself as ``b"."``.

    Args:
        root: the tree's root.
        atime: whether access times are told.
        holes: whether the data's place in each regular file is told.
    """
    told: dict[bytes, Facts] = {}
    first: dict[tuple[int, int], bytes] = {}
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    try:
        for path, parent, name in _walk(top):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            told[path] = Facts(
                type=stat.S_IFMT(status.st_mode),
                mode=stat.S_IMODE(status.st_mode),
                owner=(status.st_uid, status.st_gid),
                size=0 if stat.S_ISDIR(status.st_mode) else status.st_size,
                mtime=status.st_mtime_ns,
                # Reading a link's target changes its access time, and nothing can prevent it.
                atime=status.st_atime_ns if atime and not stat.S_ISLNK(status.st_mode) else None,
                device=status.st_rdev,
                links=0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
                twin=first.setdefault((status.st_dev, status.st_ino), path),
                target=_target(parent, name, status),
                xattrs=_xattrs(parent, name),
                content=_content(parent, name, status),
                holes=_data(parent, name, status) if holes else (),
            )
    finally:
        os.close(top)
    return told


def assert_same(left: Mapping[bytes, Facts], right: Mapping[bytes, Facts]) -> None:
    """Fail with the entries that differ, each with the facts that do."""
    differences = [f"only on the left: {path!r}" for path in left.keys() - right.keys()]
    differences += [f"only on the right: {path!r}" for path in right.keys() - left.keys()]
    for path in left.keys() & right.keys():
        one, other = left[path], right[path]
        differences += [
            f"{path!r}: {field} {a!r} != {b!r}"
            for field, a, b in zip(Facts._fields, one, other, strict=True)
            if a != b
        ]
    assert not differences, "\n".join(sorted(differences)[:40])


def _walk(top: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Path, open parent folder and name of each entry, without recursion, at any depth."""
    yield b".", top, b"."
    stack = [(b"", os.dup(top), sorted(_names(top)))]
    try:
        while stack:
            prefix, fd, names = stack[-1]
            if not names:
                os.close(stack.pop()[1])
                continue
            name = names.pop(0)
            path = prefix + name
            yield path, fd, name
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME
                child = os.open(name, flags, dir_fd=fd)
                stack.append((path + b"/", child, sorted(_names(child))))
    finally:
        for _, fd, _ in stack:
            os.close(fd)


def _names(fd: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(fd)]


def _target(parent: int, name: bytes, status: os.stat_result) -> bytes:
    return os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else b""


def _xattrs(parent: int, name: bytes) -> Mapping[str, bytes]:
    path = b"/proc/self/fd/%d/%s" % (parent, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    names = [a for a in sorted(names) if not a.startswith("trusted.SGI_ACL_")]  # XFS: ACLs again
    return {a: os.getxattr(path, a, follow_symlinks=False) for a in names}


def _content(parent: int, name: bytes, status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return ""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=parent)
    with open(fd, "rb") as file:
        if status.st_size > 1 << 28:  # mostly a hole: read where there is data
            return repr(_data(parent, name, status))
        return hashlib.file_digest(file, "sha256").hexdigest()


def _data(parent: int, name: bytes, status: os.stat_result) -> tuple[tuple[int, int], ...]:
    if not stat.S_ISREG(status.st_mode):
        return ()
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=parent)
    spans: list[tuple[int, int]] = []
    end = 0
    try:
        while end < status.st_size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            spans.append((start, end))
    except OSError:  # ENXIO: nothing but a hole up to the end
        pass
    finally:
        os.close(fd)
    return tuple(spans)
