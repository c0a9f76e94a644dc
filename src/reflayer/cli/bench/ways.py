"""The ways of making a container's tree that are put side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from reflayer.copy import remove_tree
from reflayer.driver import Driver
from reflayer.errors import CopyError


@dataclass(frozen=True, slots=True)
class Way:
    """One way of making a container's tree from a layer.

    Attributes:
        name: what the table calls it: a method, or another program's command.
        about: what becomes of the content, in some words.
        make: makes the tree.
        remove: removes it, or does nothing where there is none.
    """

    name: str
    about: str
    make: Callable[[], object]
    remove: Callable[[], object]


BASELINE = "cp -a"
"""The name of the way that the others are compared with, where it is there."""

METHODS = {
    "snapshot": "of a btrfs subvolume",
    "reflink": "blocks are shared",
    "range": "copied in the kernel",
    "stream": "read and written",
    "tar": "packed and unpacked",
}
"""The methods of the driver, best first, with what becomes of the content."""


def ways(home: str, layer: str) -> list[Way]:
    """Each method of the driver, and ``cp -a`` where that is installed.

    Args:
        home: the home of a driver.
        layer: the layer in it that containers are made from.
    """
    found = [_by_driver(Driver(home, method=method), method, layer) for method in METHODS]
    if shutil.which("cp"):
        source, copy = Driver(home).path(layer), os.path.join(home, "copy")
        make, remove = partial(_cp, source, copy), partial(remove_tree, copy)
        found.append(Way(BASELINE, "of coreutils", make, remove))
    return found


def _by_driver(driver: Driver, method: str, layer: str) -> Way:
    make = partial(driver.create_read_write, "container", layer)
    return Way(method, METHODS[method], make, partial(driver.remove, "container"))


def _cp(src: str, dst: str) -> None:
    done = subprocess.run(["cp", "-a", "--", src, dst], capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or [b"it failed"]
        raise CopyError(os.fsencode(dst), "cp -a", os.fsdecode(lines[0]))
