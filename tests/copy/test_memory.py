"""Memory grows by less than 100 bytes for each entry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_ENTRIES = 60_000
_CODE = """
import re, resource, sys
from reflayer.copy import copy_tree
from reflayer.workers import pool
def most(pid):
    return int(re.search("VmHWM:\\\\s+(\\\\d+)", open(f"/proc/{pid}/status").read())[1]) * 1024
def now(pid):
    return int(re.search("VmRSS:\\\\s+(\\\\d+)", open(f"/proc/{pid}/status").read())[1]) * 1024
pool._ALONE = -1
copy_tree(sys.argv[1], sys.argv[3] + "1", workers=2)
before = now("self")
copy_tree(sys.argv[2], sys.argv[3] + "2", workers=2)
print(most("self") - before)
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

    assert int(told) < 100 * _ENTRIES
