"""The capabilities that the DaemonSet asks for are all that the snapshotter needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.containerd_programs.conftest import Start
from tests.containerd_programs.images import NAME, archive, chain_id, layers
from tests.containerd_programs.test_images import told
from tests.file_systems import require
from tests.trees import assert_same

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def start_with_those(start: Start) -> Start:
    """Both daemons, ours with no more than the DaemonSet's capabilities."""
    require("setpriv")
    manifest = yaml.safe_load((PROJECT / "deploy/kubernetes/daemonset.yaml").read_text())
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    added = container["securityContext"]["capabilities"]["add"]
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in added)])
    setpriv = ("setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounding}")
    return partial(start, under=setpriv)


def test_clones_are_whole_and_removed_with_those_alone(
    start_with_those: Start, place: Path, tmp_path: Path
) -> None:
    pair = start_with_those(place)
    plain = layers()
    pair.containerd.ctr(
        "images", "import", "--base-name", NAME, archive(tmp_path / "image", "t", *plain)
    )
    pair.containerd.ctr("snapshots", "prepare", "container", chain_id(*plain))
    pair.containerd.collect()
    pair.containerd.ctr("snapshots", "view", "view", chain_id(*plain))
    copy, top = (pair.containerd.mount(name)[0] for name in ("container", "view"))
    assert_same(told(copy), told(top))

    for name in ("view", "container"):  # a removal lets the collector take views
        pair.containerd.ctr("snapshots", "rm", name)
    pair.containerd.ctr("images", "rm", "--sync", f"{NAME}:t")
    assert pair.containerd.snapshots() == {}


def test_kubernetes_probe_tells_the_health_of_what_is_served(
    start_with_those: Start, place_on: Callable[[str], Path]
) -> None:
    pair = start_with_those(place_on("xfs"))
    module = "reflayer.plugins.containerd.probe"
    probe = [sys.executable, "-m", module, str(pair.reflayer.address)]
    assert subprocess.run(probe, check=False).returncode == 0
    pair.reflayer.stop()
    refused = subprocess.run(probe, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert str(pair.reflayer.address) in refused.stderr
