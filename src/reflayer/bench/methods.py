"""What ``reflayer bench`` compares, and what it is measured on."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from reflayer.bench.runs import Rival, Times, opened
from reflayer.copy import remove_tree
from reflayer.driver import Driver
from reflayer.driver.trash import delete
from reflayer.errors import failing
from reflayer.linux.statfs import file_system_name
from reflayer.workers.pool import usable_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BASELINE = "cp -a"
"""What the methods are compared with, where it is there."""

METHODS = {
    "snapshot": "of a btrfs subvolume",
    "reflink": "blocks are shared",
    "range": "copied in the kernel",
    "stream": "read and written",
    "tar": "packed and unpacked",
}
"""The methods of the driver, best first, with what becomes of the content."""


def rivals(home: Path, layer: str) -> list[Rival]:
    """Each method of the driver of ``home``, and ``cp -a`` where that is installed."""
    found = []
    for method, about in METHODS.items():
        driver = Driver(home, method=method)
        create = partial(driver.create, "container", layer)
        found.append(Rival(method, create, after=partial(driver.remove, "container"), about=about))
    if shutil.which("cp"):
        copy = home / "copy"
        command = ("cp", "-a", "--", Driver(home).path(layer), copy)
        put_away = partial(remove_tree, copy)
        found.append(Rival(BASELINE, command, after=put_away, about="of coreutils"))
    return found


def fastest(measured: Sequence[Times]) -> Times | None:
    """The one with the smallest median; None if none works."""
    working = [times for times in measured if times.missing is None]
    return min(working, key=lambda times: times.median, default=None)


def compared_with(measured: Sequence[Times]) -> Times | None:
    """What the others are compared with: ``cp -a``, else the fastest; None if none works."""
    for times in measured:
        if times.name == BASELINE and times.missing is None:
            return times
    return fastest(measured)


@contextmanager
def scratch(place: str | Path) -> Iterator[Path]:
    """A new folder in ``place``, gone at the end, however that comes."""
    with failing(os.fspath(place), "make a folder"):
        made = Path(tempfile.mkdtemp(prefix=".reflayer-bench-", dir=place))
    try:
        yield made
    finally:
        delete(os.fspath(made))  # a daemon that was ended may have left a process at work in it


def machine_facts() -> dict[str, str]:
    """The date, the processor and the kernel, in words for a caption."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": f"{_processor()}, {usable_cpus()} cores",
        "kernel": f"{os.uname().sysname} {os.uname().release}",
    }


def file_system(folder: str | Path) -> str:
    """The type of the file system that ``folder`` is on."""
    with opened(folder) as fd:
        return file_system_name(fd)


def _processor() -> str:
    with open("/proc/cpuinfo") as table:
        for line in table:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return os.uname().machine
