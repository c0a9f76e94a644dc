"""The ways of making a container's tree that are put side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from reflayer.copy import copy_tree
from reflayer.errors import CopyError


@dataclass(frozen=True, slots=True)
class Way:
    """One way of making a tree the same as another.

    Attributes:
        name: what the table calls it: a method, or another program's command.
        about: what moves the content, in some words.
        make: makes the tree, called with the source and a path that is absent.
    """

    name: str
    about: str
    make: Callable[[str, str], object]


BASELINE = "cp -a"
"""The name of the way that the others are compared with, where it is there."""

_METHODS = {
    "reflink": "blocks are shared",
    "range": "copied in the kernel",
    "stream": "read and write",
}


def ways() -> list[Way]:
    """The methods of ``copy_tree``, best first, and ``cp -a`` where that is installed."""
    found = [
        Way(method, about, partial(copy_tree, method=method)) for method, about in _METHODS.items()
    ]
    if shutil.which("cp"):
        found.append(Way(BASELINE, "of coreutils", _cp))
    return found


def _cp(src: str, dst: str) -> None:
    done = subprocess.run(["cp", "-a", "--", src, dst], capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or [b"it failed"]
        raise CopyError(os.fsencode(dst), "cp -a", os.fsdecode(lines[0]))
