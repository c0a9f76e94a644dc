"""An entry costs the system calls that docs/copy.md lists, and no more."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.linux.names import native
from tests.cli.processes import PROGRAM
from tests.file_systems import require

_MORE = 100  # entries that one of two trees has more than the other: all else costs both the same


def _file(path: Path) -> None:
    path.write_bytes(b"content")
    path.chmod(0o644)


def _folder(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


@pytest.mark.parametrize(("make", "calls"), [(_file, 9), (_folder, 10 if native else 16)])
def test_each_entry_costs_as_many_calls_as_the_page_says(
    place_on: Callable[[str], Path], make: Callable[[Path], None], calls: int
) -> None:
    require("strace")
    place = place_on("xfs")
    counts = []
    for name, entries in (("few", 1), ("many", 1 + _MORE)):
        (place / name).mkdir()
        for number in range(entries):
            make(place / name / str(number))
        counts.append(_calls_of_a_copy(place / name))
    assert round((counts[1] - counts[0]) / _MORE) == calls


def _calls_of_a_copy(source: Path) -> int:
    """How many the copying process makes by itself; a helper may be starting beside it."""
    trace = source.with_suffix(".trace")
    copy = [*PROGRAM, "copy", "--workers", "1", source, source.with_suffix(".copy")]
    subprocess.run(["strace", "-o", str(trace), *map(str, copy)], check=True, capture_output=True)
    return trace.read_text(errors="replace").count("\n")
