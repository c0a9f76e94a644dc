"""Random stacks of layers, made by the kernel: each is the upper folder of a mounted overlayfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hypothesis import strategies as st

from tests.archive.test_random_changes import EDITS, Edit, edit
from tests.random_trees import TREES, Tree, make_tree

STACKS = st.tuples(TREES, st.lists(EDITS, min_size=1, max_size=4))
"""The lowest layer, and what is edited in each layer above."""


@contextmanager
def overlay(place: Path, layers: Sequence[Path], upper: Path | None = None) -> Iterator[Path]:
    """A mount below ``place`` of ``layers``, topmost first, with ``upper`` written to."""
    point = place / "mount"
    # Seen from there: fsconfig(2), by which newer versions of mount(8) do it, takes 255 bytes.
    lower = [os.path.relpath(layer, place) for layer in layers]
    options = ["redirect_dir=off", "metacopy=off"]
    if upper is None:
        (place / "empty").mkdir(exist_ok=True)  # one layer alone is none
        lower.append("empty")
    else:
        work = upper.with_name(f"{upper.name}-work")
        for folder in (work, upper):
            folder.mkdir()
        # Volatile: it need not be written out when it is unmounted.
        options += [f"upperdir={upper}", f"workdir={work}", "index=off", "volatile"]
    point.mkdir(exist_ok=True)
    options.append("lowerdir=" + ":".join(lower))
    subprocess.run(
        ["mount", "-t", "overlay", "-o", ",".join(options), "overlay", point],
        check=True,
        cwd=place,
    )
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def make_stack(place: Path, tree: Tree, layers: list[list[Edit]]) -> list[Path]:
    """Make the layers of a stack in ``place``, and return them, topmost first."""
    whole = place / "0"
    whole.mkdir(parents=True)
    made = [whole]
    make_tree(os.fsencode(whole), tree, [])
    _remove_whiteouts(whole)
    for edits in layers:
        upper = place / str(len(made))
        with overlay(place, made, upper) as mount:
            for one in edits:
                # It moves no folder of a lower layer, and makes no device 0:0.
                with suppress(OSError):
                    edit(os.fsencode(mount), *one)
        made.insert(0, upper)
    return made


def _remove_whiteouts(whole: Path) -> None:
    """Overlayfs takes a device 0:0 for a whiteout in the lowest layer, too."""
    for folder, _, files in os.walk(os.fsencode(whole)):
        for name in files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if not status.st_rdev and status.st_mode & 0o170000 == 0o020000:
                os.unlink(path)
