"""containerd's own tests of a snapshotter, compiled from Debian's package of its source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.containerd.served import Served
from tests.file_systems import require, require_folder, require_root

GO_PATH = "/usr/share/gocode"
SOURCE = Path(__file__).with_name("suite_test.go")
SKIPPED = {"Rename"}  # by the suite itself before containerd 1.7, whatever the snapshotter is


@pytest.mark.slow
@pytest.mark.timeout(900)  # nearly all of it for the compiler, the first time
def test_containerds_own_suite_passes(service_anywhere: Served, program: Path) -> None:
    command = [str(program), "-test.v", "-test.parallel=8"]
    environment = {**os.environ, "REFLAYER_SOCKET": str(service_anywhere.socket)}
    run = subprocess.run(
        command, cwd=program.parent, env=environment, text=True, stdout=subprocess.PIPE
    )
    assert run.returncode == 0, run.stdout
    results = re.findall(r"--- (\w+): TestReflayer/(\w+)", run.stdout)
    assert len(results) == 21
    assert {name for result, name in results if result != "PASS"} <= SKIPPED


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite, compiled."""
    require_root()  # for what it is run on: who is not need not wait for the compiler
    require("go")
    require_folder(f"{GO_PATH}/src/github.com/containerd/containerd/snapshots/testsuite")
    folder = tmp_path_factory.mktemp("go")
    package = folder / "src/suite"
    package.mkdir(parents=True)
    shutil.copy(SOURCE, package)
    subprocess.run(
        ["go", "test", "-c", "-o", folder / "suite", "."],
        cwd=package,
        env={**os.environ, "GO111MODULE": "off", "GOPATH": f"{folder}:{GO_PATH}"},
        check=True,
    )
    return folder / "suite"
