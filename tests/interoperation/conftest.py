"""One image, made of a container, that has all kinds of entries and changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from reflayer import ConfigChanges, Store
from tests.store.stores import BASE, MORE, image
from tests.trees import Facts, facts

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""CAP_NET_BIND_SERVICE, as a file has it (capabilities(7))."""


class Made(NamedTuple):
    """An image of a store.

    Attributes:
        store: the store.
        name: what it is called there.
        id: its id.
        tree: the facts of its root file system.
    """

    store: Store
    name: str
    id: str
    tree: dict[bytes, Facts]


@pytest.fixture(scope="session")
def made(file_system: Callable[[str], Path]) -> Made:
    """An image of three layers: two that came, and one that was committed."""
    base = file_system("xfs") / "interoperation"
    base.mkdir()
    store = Store(base / "store")
    container = store.create(image(base / "image", BASE, MORE))
    _change(Path(container.path))
    changes = ConfigChanges(cmd=["/bin/sh"], env={"PATH": "/bin"}, labels={"made": "by us"})
    committed = store.commit(container.name, "example:1", changes=changes, message="changed")
    tree = facts(Path(store.create("example:1").path), atime=False)
    return Made(store, "example:1", committed.image.id, tree)


def _change(root: Path) -> None:
    """All that Docker keeps, too: of attributes capabilities, and times in whole seconds."""
    (root / "etc/new").unlink()
    (root / "etc/passwd").write_bytes(b"changed")
    (root / "bin/sh").chmod(0o4711)
    for folder in ("added", "added/deep", "added/ümlaut", "n" * 120):
        (root / folder).mkdir()
    (root / "added").chmod(0o2750)
    os.chown(root / "added", 1000, 3_000_000)
    os.link(root / "bin/ash", root / "added/link to what was there")
    (root / "added/one").write_bytes(b"1" * 100_000)
    os.link(root / "added/one", root / "added/deep/two")
    (root / "added/capable").touch(0o755)
    os.setxattr(root / "added/capable", "security.capability", CAPABILITY)
    os.symlink("../etc/link", root / "added/symlink")
    os.mkfifo(root / "added/pipe")
    os.mknod(root / "added/device", 0o020600, os.makedev(1, 3))
    with open(root / "added/holes", "wb") as file:
        file.truncate(1 << 22)
        os.pwrite(file.fileno(), b"data", 1 << 20)
    for folder, folders, files in os.walk(root, topdown=False):
        for name in (*folders, *files):
            os.utime(f"{folder}/{name}", (7, 1_100_000_000), follow_symlinks=False)
    os.utime(root, (7, 1_100_000_000))
