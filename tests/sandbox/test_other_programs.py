"""The lines of the page by which other programs run a container's folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reflayer import Store
from tests.archive.tars import folder
from tests.file_systems import require, require_root
from tests.sandbox.images import image, in_one_version

_PAGE = Path(__file__).parents[2] / "docs/run.md"
_PROGRAMS = ("podman", "systemd-nspawn", "bwrap", "apptainer", "runc")
# Podman asks for more files than a machine in a cloud may have.
_PODMAN = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'


def _line(program: str) -> str:
    """The one that names the program."""
    block = _PAGE.read_text().split("## By other programs")[1].split("```")[1]
    found = [line for line in block.splitlines() if re.search(rf"(^|&& ){program} ", line)]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("program", _PROGRAMS)
def test_a_program_runs_the_folder(program: str, base: Path, root: Path) -> None:
    require_root()
    if program == "apptainer" and shutil.which(program) is None:
        pytest.skip("Debian has no apptainer")
    require(program)
    store = Store(root)
    store.create(image(base / "image", folder("usr")), name="web")
    (base / "containers.conf").write_text(_PODMAN)
    shell = (
        f'reflayer() {{ "{sys.executable}" -m reflayer --root "{root}" "$@"; }}; '
        f"cd {base}; PATH=$PATH:/usr/sbin:/bin; {_line(program)}"
    )
    done = subprocess.run(
        in_one_version("bash", "-c", shell),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "CONTAINERS_CONF": str(base / "containers.conf")},
    )
    assert (done.stdout.split(), done.returncode) == (["hello"], 0), done.stderr
    store.remove_container("web")


def test_every_line_is_tested() -> None:
    block = _PAGE.read_text().split("## By other programs")[1].split("```")[1]
    assert len(block.strip().splitlines()) == len(_PROGRAMS)
