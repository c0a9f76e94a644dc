"""A platform that lacks what Linux has: the copy is imported and copies all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trees import assert_same, facts

_LACKING = """
import os, sys
for name in ("copy_file_range", "listxattr", "getxattr", "setxattr", "removexattr",
             "memfd_create", "posix_spawn", "O_TMPFILE", "O_NOATIME", "SEEK_DATA", "SEEK_HOLE",
             "sched_getaffinity"):
    delattr(os, name)
for name in ("fcntl", "ctypes", "_ctypes"):
    sys.modules[name] = None
from reflayer.copy import CopyError, copy_tree
from reflayer.workers import pool
pool._ALONE = -1
"""
_COPY = """
report = copy_tree(sys.argv[1], sys.argv[2], workers=3)
assert report.method == "stream", report
"""
_FAIL = """
def broken(*_):
    raise KeyError
try:
    copy_tree(sys.argv[1], sys.argv[2], progress=broken)
except KeyError:
    sys.exit(0)
sys.exit(1)
"""
_NAMED = """
for method in ("reflink", "range"):
    try:
        copy_tree(sys.argv[1], sys.argv[2], method=method)
        sys.exit(1)
    except CopyError as error:
        assert "does not work here" in str(error)
"""


def _run(code: str, place: Path) -> None:
    names = [f"{place}/{name}" for name in ("src", "dst")]
    subprocess.run([sys.executable, "-c", _LACKING + code, *names], check=True)


@pytest.fixture
def place(place_on: Callable[[str], Path]) -> Path:
    place = place_on("xfs")
    (place / "src/folder/inner").mkdir(parents=True)
    (place / "src/folder/file").write_bytes(os.urandom(100_000))
    os.link(place / "src/folder/file", place / "src/twin")
    (place / "src/link").symlink_to("x")
    os.mkfifo(place / "src/fifo")
    (place / "src/folder/inner").chmod(0)
    return place


def test_a_tree_is_copied(place: Path) -> None:
    before = facts(place / "src", atime=False)
    _run(_COPY, place)
    assert_same(before, facts(place / "dst", atime=False))


def test_a_failure_is_undone(place: Path) -> None:
    _run(_FAIL, place)
    assert os.listdir(place) == ["src"]


def test_a_named_method_that_is_not_there_is_refused(place: Path) -> None:
    _run(_NAMED, place)
    assert os.listdir(place) == ["src"]


def test_only_the_standard_library_is_imported() -> None:
    code = (
        "import sys; import reflayer.copy, reflayer.copy.tree; "
        "print({n.split('.')[0] for n in sys.modules} - set(sys.stdlib_module_names))"
    )
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[1]); {code}"]
    import reflayer

    source = os.path.dirname(os.path.dirname(reflayer.__file__))
    told = subprocess.run([*command, source], check=True, capture_output=True, text=True).stdout
    assert eval(told) - {"__main__", "reflayer"} == set()
