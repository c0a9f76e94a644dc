"""containerd's native snapshotter in a daemon of its own."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.images import oci_image
from benchmarks.pairs import Rival
from benchmarks.processes import output, run, start
from benchmarks.question import Setting

_CONTAINERD = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{state}/socket"
"""


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
    why_not = start(["containerd", f"--config={config}"], [*ctr, "version"], state, stack)
    if why_not is not None:
        return Rival(name, (), missing=why_not)
    archive = setting.folder / "image.tar"
    run(["tar", "-C", str(oci_image(setting)), "-cf", str(archive), "."])
    run([*ctr, "images", "import", "--snapshotter=native", "--base-name=bench", str(archive)])
    rows = [line.split() for line in output([*snapshots, "list"]).splitlines()]
    layer = next(row[0] for row in rows if row[-1] == "Committed")
    return Rival(
        name,
        [*snapshots, "prepare", "bench", layer],
        after=partial(run, [*snapshots, "remove", "bench"]),
    )
