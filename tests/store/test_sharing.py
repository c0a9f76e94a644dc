"""What an image and its containers take of the disk."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from tests.archive.tars import entry, tar
from tests.file_systems import require, require_root
from tests.store.stores import assert_clean, image, layers_in
from tests.trees import assert_same, facts

_DATA = random.Random(1).randbytes(32 << 20)


def used(place: Path) -> int:
    """Bytes in use on the file system of ``place``."""
    os.sync()
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_another_clone_adds_no_data(place_on: Callable[[str], Path], kind: str) -> None:
    base = place_on(kind)
    made = image(base / "image", tar(entry("data", _DATA)))
    store = Store(base / "store")
    store.create(made)
    before = used(base)
    clones = [store.create(made) for _ in range(3)]
    assert used(base) - before < len(_DATA) / 10
    assert all(Path(one.path, "data").read_bytes() == _DATA for one in clones)


def test_twenty_layers_take_the_room_of_what_is_in_them(
    place_on: Callable[[str], Path],
) -> None:
    require_root()
    require("umoci")
    base = place_on("ext4")
    made = _twenty_layers(base)
    _umoci("unpack", "--image", made, f"{base}/unpacked")
    theirs = base / "unpacked/rootfs"
    store = Store(base / "store")
    before = used(base)
    container = store.create(f"oci:{made}")
    assert_same(facts(Path(container.path), atime=False), facts(theirs, atime=False))
    store.remove_container(container.name)
    taken = used(base) - before - _room(base / "store/content")
    (image,) = store.images()
    assert image.size is not None  # that of their tars
    assert taken <= 1.1 * image.size + (1 << 20)  # for the database
    assert len(layers_in(base / "store")) == 20
    assert_clean(base / "store")


def _room(folder: Path) -> int:
    total = 0
    for place, folders, files in os.walk(folder):
        total += sum(os.lstat(f"{place}/{name}").st_blocks for name in (*folders, *files))
    return 512 * (total + os.lstat(folder).st_blocks)


def _twenty_layers(base: Path) -> str:
    """An image of umoci's; each layer adds, changes, replaces and removes."""
    layout = f"{base}/image"
    made = f"{layout}:latest"
    _umoci("init", "--layout", layout)
    _umoci("new", "--image", made)
    _umoci("unpack", "--image", made, f"{base}/bundle")
    top = base / "bundle/rootfs"
    dice = random.Random(20)
    for number in range(20):
        for name in ("kept", "changed", "removed", "replaced"):
            folder = top / f"{name}-{number}"
            folder.mkdir()
            for file in range(8):
                (folder / f"file-{file}").write_bytes(dice.randbytes(dice.randrange(60_000)))
        if number:
            _change(top, number - 1, dice)
        _umoci("repack", "--refresh-bundle", "--image", made, f"{base}/bundle")
    return made


def _change(top: Path, number: int, dice: random.Random) -> None:
    (top / f"changed-{number}/file-0").write_bytes(dice.randbytes(10))
    (top / f"changed-{number}/file-1").unlink()
    (top / f"changed-{number}/file-2").unlink()
    (top / f"changed-{number}/file-2").mkdir(mode=0o700)
    subprocess.run(["rm", "-r", str(top / f"removed-{number}")], check=True)
    subprocess.run(["rm", "-r", str(top / f"replaced-{number}")], check=True)
    (top / f"replaced-{number}").symlink_to("kept-0")


def _umoci(*arguments: str) -> None:
    subprocess.run(["umoci", *arguments], check=True, capture_output=True)
