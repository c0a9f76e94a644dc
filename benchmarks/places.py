"""Where is measured and on what: file systems in loop devices, and trees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import run
from reflayer.bench.sample_tree import make_tree
from reflayer.copy import remove_tree

MKFS = {
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-i", "8192"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
"""The program that makes each file system, with its options."""

_SUITE = "bookworm"  # a fixed one, so that the tree is much the same later
_TRIES, _PAUSE = 100, 0.1  # seconds
_SIZE = 24 << 30  # bytes; only what is used takes space
_IMAGES = os.environ.get("TMPDIR", "/var/tmp")  # of the loop devices
KEPT = Path("/var/tmp/reflayer-benchmarks")
"""Where trees that take long to make are kept for the next time."""


@contextmanager
def mounted(kind: str) -> Iterator[Path]:
    """A new file system of ``kind``, a key of ``MKFS``, in a loop device; gone afterwards."""
    if os.geteuid() != 0:
        raise SystemExit(f"mounting {kind} needs root; --place measures in a folder that is there")
    with tempfile.TemporaryDirectory(prefix="reflayer-benchmarks-", dir=_IMAGES) as folder:
        os.chmod(folder, 0o711)  # some of what is measured is an ordinary user's
        image, place = Path(folder, "image"), Path(folder, kind)
        place.mkdir()
        with open(image, "wb") as file:
            file.truncate(_SIZE)
        subprocess.run([*MKFS[kind], image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        try:
            yield place
        finally:
            for _ in range(_TRIES):  # what makes spares waits some seconds for more
                if subprocess.run(["umount", place], capture_output=True).returncode == 0:
                    break
                time.sleep(_PAUSE)
            else:  # after an error, whose trace has what it had open
                subprocess.run(["umount", "--lazy", place], check=True)


def tree(name: str) -> Path:
    """The tree of that name: ``debian``, a number of entries to make, or a folder that is there.

    What is made is kept in ``KEPT``.
    """
    if "/" in name:
        return Path(name)
    folder = KEPT / name
    if folder.is_dir():
        return folder
    KEPT.mkdir(parents=True, exist_ok=True)
    new = KEPT / f"{name}.new"
    remove_tree(new)
    if name == "debian":
        if shutil.which("debootstrap") is None:
            raise SystemExit("debootstrap makes the tree: apt-get install debootstrap")
        print(f"debootstrapping {_SUITE} into {folder} (some minutes)", file=sys.stderr)
        run(["debootstrap", "--variant=minbase", _SUITE, str(new)])
    elif name.isdecimal():
        new.mkdir()
        make_tree(str(new), int(name))
    else:
        raise SystemExit(f"{name}: neither debian, nor a number, nor a folder with a / in its name")
    new.rename(folder)
    return folder
