"""What ``reflayer containerd-config`` prints does what it says, in whatever containerd is there."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.containerd_programs.conftest import REFLAYER, Start
from tests.containerd_programs.containerd import release, require_config_version


@pytest.mark.parametrize("version", [2, 3, 4])
def test_containerd_understands_each_table_that_is_imported(version: int, tmp_path: Path) -> None:
    require_config_version(version)
    printed = subprocess.run(
        [REFLAYER, "containerd-config", f"--config-version={version}"],
        stdout=subprocess.PIPE,
        check=True,
    )
    (tmp_path / "imported.toml").write_bytes(printed.stdout)
    main = tmp_path / "config.toml"
    main.write_text(f'version = {version}\nimports = ["{tmp_path}/imported.toml"]\n')

    command = ["containerd", "--config", str(main), "config", "dump"]
    dumped = subprocess.run(command, stdout=subprocess.PIPE, check=True)

    told: dict[str, Any] = tomllib.loads(dumped.stdout.decode())
    assert told["proxy_plugins"]["reflayer"]["type"] == "snapshot"
    plugins = told["plugins"]
    if release()[0] < 2:
        assert plugins["io.containerd.grpc.v1.cri"]["containerd"]["snapshotter"] == "reflayer"
    else:
        assert plugins["io.containerd.cri.v1.images"]["snapshotter"] == "reflayer"
    if release() >= (1, 7):
        unpacked = plugins["io.containerd.transfer.v1.local"]["unpack_config"]
        erofs = ["erofs"] if version == 4 else []
        assert [one["snapshotter"] for one in unpacked] == ["overlayfs", *erofs, "reflayer"]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_ctr_pulls_an_image_that_runs(
    version: int, start: Start, place_on: Callable[[str], Path], registry: str
) -> None:
    require_config_version(version)
    pair = start(place_on("xfs"), config_version=version)
    name = f"{registry}/image:t"
    pair.containerd.ctr("images", "pull", "--plain-http", name)
    assert len(pair.containerd.snapshots()) == 5
    assert pair.containerd.run(name, "c", "cat", "/kept/file", options=("--rm",)) == "first"
