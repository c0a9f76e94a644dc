"""Memory: the caller's grows by less than 100 bytes for each entry, a helper's by less still."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_ENTRIES = 60_000
_CODE = """
import re, resource, sys
from reflayer.copy import Pool, copy_tree, crew
def most(pid):
    return int(re.search("VmHWM:\\\\s+(\\\\d+)", open(f"/proc/{pid}/status").read())[1]) * 1024
def now(pid):
    return int(re.search("VmRSS:\\\\s+(\\\\d+)", open(f"/proc/{pid}/status").read())[1]) * 1024
crew._ALONE = -1
pool = Pool(1)
copy_tree(sys.argv[1], sys.argv[3] + "1", workers=2, pool=pool)
pids = ["self", *(helper._pid for helper in pool._free)]
before = [now(pid) for pid in pids]
copy_tree(sys.argv[2], sys.argv[3] + "2", workers=2, pool=pool)
print(*(most(pid) - size for pid, size in zip(pids, before)))
"""


def test_memory_hardly_grows_with_the_tree(place_on: Callable[[str], Path]) -> None:
    place = place_on("tmpfs")
    fd = os.open(place, os.O_RDONLY)
    for name, size in (("small", 4000), ("large", _ENTRIES)):
        os.mkdir(name, dir_fd=fd)
        folder = os.open(name, os.O_RDONLY, dir_fd=fd)
        for number in range(size):
            if number % 4:
                os.mknod(f"a file of some length {number}", dir_fd=folder)
            else:
                os.mkdir(f"a folder of some length {number}", dir_fd=folder)
        os.close(folder)
    os.close(fd)
    command = [sys.executable, "-c", _CODE, f"{place}/small", f"{place}/large", f"{place}/dst"]

    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    growth = [int(size) for size in told.split()]
    assert len(growth) == 2
    assert max(growth) < 100 * _ENTRIES
