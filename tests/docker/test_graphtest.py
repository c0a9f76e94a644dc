"""Docker's own suite for graph drivers, run by its own client of plugins."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.daemons import Plugin, running_plugin
from tests.docker.quotas import mounted_with_quotas
from tests.file_systems import require, require_folder

_SOURCE = Path(__file__).with_name("graphtest")
_DEBIAN = Path("/usr/share/gocode")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite as a program."""
    require("go")
    drivers = _DEBIAN / "src/github.com/docker/docker/daemon/graphdriver"
    require_folder(str(drivers))
    if not (drivers / "proxy.go").exists():
        pytest.skip("Docker's source has no client of graph-driver plugins any more (from 28 on)")
    folder = tmp_path_factory.mktemp("graphtest")
    (folder / "src/gotest.tools").mkdir(parents=True)
    # Debian has it under the path of its first version.
    (folder / "src/gotest.tools/v3").symlink_to(_DEBIAN / "src/gotest.tools")
    go = {
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOPATH": f"{_SOURCE / 'gopath'}:{folder}:{_DEBIAN}",
    }
    has_one_map = "IdentityMapping" in (drivers / "driver.go").read_text()
    register = "register_26.go" if has_one_map else "register_20.go"
    sources = [str(_SOURCE / name) for name in ("main.go", register)]
    build = ["go", "build", "-o", str(folder / "suite"), *sources]
    done = subprocess.run(build, env={**os.environ, **go}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "suite"


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    """A plugin."""
    with running_plugin() as plugin:
        yield plugin


def run(suite: Path, plugin: Plugin, folder: Path, *options: str) -> list[str]:
    """What the suite tells of each of its tests, with their layers in ``folder``."""
    done = subprocess.run(
        [str(suite), f"-socket={plugin.socket}", "-test.v", *options],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split(":")[0] for line in done.stdout.splitlines() if line.startswith("---")]


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4"])
def test_docker_s_own_suite_passes(
    suite: Path, plugin: Plugin, place_on: Callable[[str], Path], kind: str
) -> None:
    assert run(suite, plugin, place_on(kind)) == ["--- PASS"] * 6


def test_docker_s_own_test_of_quotas_passes(suite: Path, plugin: Plugin, tmp_path: Path) -> None:
    with mounted_with_quotas(tmp_path) as place:
        assert run(suite, plugin, place, "-quota") == ["--- PASS"] * 7
