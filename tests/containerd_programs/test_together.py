"""One process serves Docker and containerd."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.containerd_programs.conftest import Start
from tests.containerd_programs.containerd import until
from tests.containerd_programs.images import NAME, archive, chain_id, layers


def test_both_engines_keep_their_layers_with_one_process(
    start: Start, place_on: Callable[[str], Path], tmp_path: Path
) -> None:
    place, plain = place_on("xfs"), layers()
    pair = start(place, services=("docker", "containerd"))
    docker = pair.containerd.folder / "docker.sock"

    assert ask(docker, "/Plugin.Activate") == {"Implements": ["GraphDriver"]}
    home = str(place / "docker")
    assert not ask(docker, "/GraphDriver.Init", {"Home": home, "Opts": []}).get("Err")
    assert not ask(docker, "/GraphDriver.Create", {"ID": "layer", "Parent": ""}).get("Err")
    path = ask(docker, "/GraphDriver.Get", {"ID": "layer", "MountLabel": ""})["Dir"]

    imported = archive(tmp_path / "image", "t", *plain)
    pair.containerd.ctr("images", "import", "--base-name", NAME, imported)
    pair.containerd.ctr("snapshots", "prepare", "container", chain_id(*plain))

    assert Path(path).is_dir()
    assert Path(path).is_relative_to(home)
    assert (pair.containerd.mount("container")[0] / "kept/file").read_bytes() == b"first"

    pair.reflayer.stop()
    until(lambda: not docker.exists(), "Docker's socket is gone")
    assert not Path(str(pair.reflayer.address)).exists()


def ask(path: Path, call: str, fields: Mapping[str, object] | None = None) -> Any:
    """The answer of Docker's plugin."""
    connection = http.client.HTTPConnection("plugin")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("POST", call, json.dumps(fields or {}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer
