"""systemd's units: they are right, and leave a copier the rights that it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer.cli.serve import DOCKER_SOCKET
from reflayer.plugins.containerd.config import SOCKET as CONTAINERD_SOCKET
from tests.copy.hard_cases import CASES, build
from tests.file_systems import require
from tests.trees import assert_same, facts

PACKAGING = Path(__file__).parents[2] / "packaging"
SERVICES = ["docker", "containerd"]
SET_BY_ROOT = [
    "devices",
    "setuid_setgid_and_sticky",
    "no_permission_bits",
    "owners_up_to_the_largest",
    "attributes",
    "capabilities_of_a_file_that_root_does_not_own",
    "access_control_lists",
    "hard_links_with_all_metadata",
    "times",
]


def _values(unit: str, key: str) -> list[str]:
    """What ``key`` is set to in a unit's file, line by line."""
    lines = (PACKAGING / unit).read_text().splitlines()
    return [line.removeprefix(f"{key}=") for line in lines if line.startswith(f"{key}=")]


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_finds_nothing_wrong(tmp_path: Path, service: str) -> None:
    require("systemd-analyze")
    units = []
    for kind in ("socket", "service"):
        text = (PACKAGING / f"reflayer-{service}.{kind}").read_text()
        units.append(tmp_path / f"reflayer-{service}.{kind}")
        # It looks whether the program is there.
        units[-1].write_text(text.replace("/opt/reflayer/bin/reflayer", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("service", "path"), [("docker", DOCKER_SOCKET), ("containerd", CONTAINERD_SOCKET)]
)
def test_systemd_listens_where_the_service_is_looked_for(service: str, path: str) -> None:
    unit = f"reflayer-{service}.socket"
    assert _values(unit, "ListenStream") == [path]
    assert _values(unit, "SocketMode") == ["0600"]
    assert _values(unit, "DirectoryMode") == ["0700"]  # dockerd makes /run/docker so, too


def test_the_rights_that_a_unit_leaves_suffice_for_a_copy(
    place_on: Callable[[str], Path],
) -> None:
    require("setpriv")
    key = "CapabilityBoundingSet"
    one, other = (" ".join(_values(f"reflayer-{name}.service", key)) for name in SERVICES)
    assert one == other
    rights = one.split()
    bounding = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in rights)])
    folder = place_on("xfs")
    source = folder / "source"
    source.mkdir()
    build(bytes(source), {name: CASES[name] for name in SET_BY_ROOT})
    command = ["setpriv", "--inh-caps=-all", f"--bounding-set={bounding}", "--no-new-privs"]
    program = [sys.executable, "-m", "reflayer", "copy", str(source), str(folder / "copy")]
    subprocess.run([*command, *program], check=True, timeout=120)
    assert_same(facts(source), facts(folder / "copy"))
