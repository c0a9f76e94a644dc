"""A containerd of its own that has both snapshotters, on the file system that is measured."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.docker.engine import lacks_spares
from benchmarks.images import oci_image
from benchmarks.processes import output, run, start
from benchmarks.question import REFLAYER, Setting
from reflayer.bench.runs import Rival

_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{state}/socket"
[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = "isolated"  # no namespace finds the blobs of another
"""
_PROXY = """
[proxy_plugins.{name}]
  type = "snapshot"
  address = "{state}/{name}.sock"
  capabilities = ["rebase"]
"""
_UNPACK = """
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "{name}"
"""
OURS = {"reflayer": 0, "spares": 4}
"""What ours are called, and the spares that each keeps."""
OWN = ("native", "overlayfs")
"""containerd's own snapshotters."""
_NONE: Mapping[str, int] = {}


class Engine:
    """One containerd, with reflayer's services beside it.

    Attributes:
        missing: why it is not there; None where it is.
        address: its socket.
    """

    def __init__(
        self,
        setting: Setting,
        stack: ExitStack,
        *,
        ours: Mapping[str, int] = OURS,
        apart: Mapping[str, int] = _NONE,
    ) -> None:
        """Start it until ``stack`` ends; ``ours`` names the services and the spares of each.

        Those ``apart`` are for other engines: containerd is not told of them, since whoever
        collects garbage removes all snapshots that it does not know.
        """
        # Not in the setting's folder: a socket's path has to be short (unix(7)).
        self._state = Path(stack.enter_context(TemporaryDirectory(prefix="containerd-")))
        self.address = self._state / "socket"
        self._place = setting.folder
        self._ours = ours
        self._homes = [self._home(name) for name in (*ours, *apart)]
        absent = [name for name in ("containerd", "ctr") if shutil.which(name) is None]
        self.missing = f"no {absent[0]} here" if absent else None
        for name, spares in (*ours.items(), *apart.items()):
            if self.missing is None:
                self._start_ours(name, spares, stack)
        if self.missing is None:
            self._start_containerd(setting, stack)
        if self.missing is None:
            stack.callback(self.settle)

    def ctr(self, *arguments: str | Path) -> list[str]:
        """The command line of ``ctr ARGUMENTS``."""
        return ["ctr", f"--address={self.address}", *map(str, arguments)]

    def snapshots(self, snapshotter: str, *arguments: str) -> list[str]:
        """The command line of ``ctr snapshots ARGUMENTS``."""
        return self.ctr("snapshots", f"--snapshotter={snapshotter}", *arguments)

    def importing(self, snapshotter: str, archive: Path) -> list[str]:
        """The command line that brings an image in, called ``bench:TAG``."""
        return self.ctr(
            "images", "import", f"--snapshotter={snapshotter}", "--base-name=bench", archive
        )

    def layer(self, snapshotter: str) -> str:
        """The committed snapshot of an image that has one layer."""
        rows = [line.split() for line in output(self.snapshots(snapshotter, "ls")).splitlines()]
        return next(row[0] for row in rows if row[-1] == "Committed")

    def settle(self) -> None:
        """Wait until what was removed is deleted, so that the next one is not disturbed.

        And until all spares are ready.
        """
        for home in self._homes:
            while home.is_dir() and (any((home / "trash").iterdir()) or lacks_spares(home)):
                time.sleep(0.01)
        before, now = None, _free(self._place)
        while before != now:  # XFS frees inodes behind the unlink
            time.sleep(0.5)
            before, now = now, _free(self._place)

    def socket(self, name: str) -> Path:
        """Where one of ours listens."""
        return self._state / f"{name}.sock"

    def _home(self, name: str) -> Path:
        return self._place / f"snapshots-{name}"

    def _start_ours(self, name: str, spares: int, stack: ExitStack) -> None:
        socket, state = self.socket(name), self._state / name
        state.mkdir()
        where = [f"--containerd-socket={socket}", f"--home={self._home(name)}"]
        serve = [str(REFLAYER), "serve", "containerd", *where, f"--spares={spares}"]
        self.missing = start(serve, ["test", "-S", str(socket)], state, stack)

    def _start_containerd(self, setting: Setting, stack: ExitStack) -> None:
        config = self._state / "config.toml"
        config.write_text(
            _CONFIG.format(root=setting.folder / "containerd", state=self._state)
            + "".join(_PROXY.format(name=name, state=self._state) for name in self._ours)
            + "".join(_UNPACK.format(name=name) for name in (*OWN, *self._ours))
        )
        daemon = ["containerd", f"--config={config}"]
        self.missing = start(daemon, self.ctr("version"), self._state, stack)


def _free(place: Path) -> tuple[int, int]:
    told = os.statvfs(place)
    return told.f_bfree, told.f_ffree


def containerd_native(setting: Setting, stack: ExitStack) -> Rival:
    """``ctr snapshots prepare`` with the snapshotter native, where containerd is."""
    return preparation(Engine(setting, stack, ours={}), "native", setting)


def preparation(engine: Engine, snapshotter: str, setting: Setting) -> Rival:
    """``ctr snapshots prepare`` from the tree as an image of one layer."""
    name = f"ctr snapshots prepare ({snapshotter})"
    if engine.missing is not None:
        return Rival(name, (), missing=engine.missing)
    bring_in(engine, snapshotter, setting)
    return Rival(
        name,
        engine.snapshots(snapshotter, "prepare", "bench", engine.layer(snapshotter)),
        after=partial(_remove, engine, snapshotter),
    )


def running(engine: Engine, snapshotter: str, setting: Setting) -> Rival:
    """``ctr run --rm`` of ``true``, which the tree has to have."""
    name = f"ctr run --rm ({snapshotter})"
    if engine.missing is not None:
        return Rival(name, (), missing=engine.missing)
    bring_in(engine, snapshotter, setting)
    (image,) = output(engine.ctr("images", "ls", "--quiet")).split()
    command = engine.ctr("run", "--rm", f"--snapshotter={snapshotter}", image, "bench", "true")
    return Rival(name, command, after=engine.settle)


def bring_in(engine: Engine, snapshotter: str, setting: Setting) -> None:
    """Import the tree as an image of one layer."""
    if shutil.which("umoci") is None:
        raise SystemExit("umoci makes the image: apt-get install umoci")
    archive = setting.folder / "image.tar"
    if not archive.exists():
        run(["tar", "-C", str(oci_image(setting)), "-cf", str(archive), "."])
    run(engine.importing(snapshotter, archive))


def _remove(engine: Engine, snapshotter: str) -> None:
    run(engine.snapshots(snapshotter, "remove", "bench"))
    engine.settle()
