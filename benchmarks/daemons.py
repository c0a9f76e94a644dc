"""Docker's vfs driver and containerd's native snapshotter, each in a daemon of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from benchmarks.images import oci_image
from benchmarks.pairs import Rival
from benchmarks.question import Setting

_PATIENCE = 60  # seconds until a daemon answers
_CONTAINERD = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{state}/socket"
"""


def docker_vfs(setting: Setting, stack: ExitStack) -> Rival:
    """``docker create`` with the storage driver vfs, on the file system that is measured."""
    name = "docker create (vfs)"
    if not (shutil.which("dockerd") and shutil.which("docker")):
        return Rival(name, (), missing="no docker here")
    # Not in the setting's folder: a socket's path has to be short (unix(7)).
    state = Path(stack.enter_context(TemporaryDirectory(prefix="docker-")))
    socket = f"unix://{state}/socket"
    daemon = [
        "dockerd",
        f"--host={socket}",
        "--storage-driver=vfs",
        f"--data-root={setting.folder / 'docker'}",
        f"--exec-root={state / 'exec'}",
        f"--pidfile={state / 'pid'}",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    docker = ["docker", f"--host={socket}"]
    why_not = _start(daemon, [*docker, "version"], state, stack)
    if why_not is not None:
        return Rival(name, (), missing=why_not)
    with subprocess.Popen(["tar", "-C", setting.tree, "-c", "."], stdout=subprocess.PIPE) as tar:
        _run([*docker, "import", "-", "tree"], stdin=tar.stdout)
    return Rival(
        name,
        [*docker, "create", "--name=bench", "tree", "true"],
        after=partial(_run, [*docker, "rm", "bench"]),
    )


def containerd_native(setting: Setting, stack: ExitStack) -> Rival:
    """``ctr snapshots prepare`` with the snapshotter native, where containerd is."""
    name = "containerd prepare (native)"
    if not (shutil.which("containerd") and shutil.which("ctr") and shutil.which("umoci")):
        return Rival(name, (), missing="no containerd or no umoci here")
    state = Path(stack.enter_context(TemporaryDirectory(prefix="containerd-")))
    config = state / "config.toml"
    config.write_text(_CONTAINERD.format(root=setting.folder / "containerd", state=state))
    ctr = ["ctr", f"--address={state}/socket"]
    snapshots = [*ctr, "snapshots", "--snapshotter=native"]
    why_not = _start(["containerd", f"--config={config}"], [*ctr, "version"], state, stack)
    if why_not is not None:
        return Rival(name, (), missing=why_not)
    archive = setting.folder / "image.tar"
    _run(["tar", "-C", str(oci_image(setting)), "-cf", str(archive), "."])
    _run([*ctr, "images", "import", "--snapshotter=native", "--base-name=bench", str(archive)])
    rows = [line.split() for line in _output([*snapshots, "list"]).splitlines()]
    layer = next(row[0] for row in rows if row[-1] == "Committed")
    return Rival(
        name,
        [*snapshots, "prepare", "bench", layer],
        after=partial(_run, [*snapshots, "remove", "bench"]),
    )


def _start(daemon: list[str], probe: list[str], state: Path, stack: ExitStack) -> str | None:
    """Start ``daemon`` until ``stack`` ends; why it cannot be, or None when ``probe`` succeeds."""
    with open(state / "log", "wb") as log:
        running = subprocess.Popen(daemon, stdout=log, stderr=log, start_new_session=True)
    stack.callback(_stop, running)
    for _ in range(_PATIENCE * 10):
        if running.poll() is not None:
            lines = (state / "log").read_text(errors="replace").splitlines() or ["it ended"]
            return f"{daemon[0]}: {lines[-1]}"
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return None
        time.sleep(0.1)
    return f"{daemon[0]} does not answer"


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    daemon.wait()


def _run(command: list[str], stdin: IO[bytes] | None = None) -> None:
    _output(command, stdin)


def _output(command: list[str], stdin: IO[bytes] | None = None) -> str:
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
