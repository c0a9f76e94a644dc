"""A Docker daemon of its own for each driver and method, with the measured tree as its image."""

from __future__ import annotations

import shutil
import socket
import struct
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.processes import fed, run, start
from benchmarks.question import REFLAYER, Setting
from reflayer.bench.runs import Rival
from reflayer.driver.spares import all_spares

_PEER = struct.Struct("3i")  # struct ucred: process, user, group
_IN_OWN_RUN = 'mount --bind "$1" /run && shift && exec "$@"'


class Engine:
    """A daemon with one storage driver, ``vfs`` or ``reflayer``.

    A daemon looks for plugins in /run/docker/plugins alone, so it gets a /run of its own.

    Attributes:
        name: what tables call it.
        missing: why it is not there; None where it is.
    """

    def __init__(
        self,
        setting: Setting,
        stack: ExitStack,
        driver: str,
        method: str = "auto",
        *,
        spares: int = 0,
        containerd: Path | None = None,
    ) -> None:
        """Start it until ``stack`` ends; ours keeps so many spares by itself.

        With the socket of a containerd the driver is one of its snapshotters.
        """
        self.name = driver if method == "auto" else f"{driver} --method {method}"
        self.name += ", a spare ready" if spares else ""
        # Not in the setting's folder: a socket's path has to be short (unix(7)).
        self._run = Path(stack.enter_context(TemporaryDirectory(prefix="docker-")))
        self._data = setting.folder / f"{driver}-{method}-{spares}"
        self.missing = None if shutil.which("dockerd") else "no docker here"
        if self.missing is None and driver == "reflayer" and containerd is None:
            self._start_plugin(stack, method, spares)
        if self.missing is None:
            self._start_daemon(stack, driver, containerd)
        if self.missing is None:
            stack.callback(self.settle)

    def docker(self, *arguments: str | Path) -> list[str]:
        """The command line of ``docker ARGUMENTS``."""
        return ["docker", f"--host=unix://{self._run}/docker.sock", *map(str, arguments)]

    def load(self, setting: Setting) -> None:
        """Import the tree as the image ``tree``."""
        fed(setting.tree, self.docker("import", "-", "tree"))

    def remove(self, name: str) -> None:
        """Remove a container to its last file, so that the next one is not disturbed."""
        run(self.docker("rm", name))
        self.settle()

    def remove_image(self, name: str) -> None:
        """Remove an image to its last file."""
        run(self.docker("rmi", name))
        self.settle()

    def settle(self) -> None:
        """Wait until what was removed is deleted, and all spares are ready."""
        home = self._data / "reflayer"
        while home.is_dir() and (any((home / "trash").iterdir()) or lacks_spares(home)):
            time.sleep(0.01)

    def pids(self) -> dict[str, int]:
        """The process ids of the daemon and of the plugin."""
        return {
            "dockerd": int((self._run / "docker.pid").read_text()),
            "reflayer": listener(self._run / "docker/plugins/reflayer.sock"),
        }

    def _start_plugin(self, stack: ExitStack, method: str, spares: int) -> None:
        socket = self._run / "docker/plugins/reflayer.sock"
        plugin = [str(REFLAYER), "serve", "docker", f"--docker-socket={socket}"]
        probe = ["test", "-S", str(socket)]
        state = self._run / "plugin"
        state.mkdir()
        self.missing = start(
            [*plugin, f"--method={method}", f"--spares={spares}"], probe, state, stack
        )

    def _start_daemon(self, stack: ExitStack, driver: str, containerd: Path | None) -> None:
        own_run = ["unshare", "--mount", "--propagation=slave", "sh", "-c", _IN_OWN_RUN, "sh"]
        run, storage = Path("/run"), [f"--storage-driver={driver}"]
        if containerd is not None:  # which has to see what the daemon mounts
            run = self._run
            storage += [
                f"--containerd={containerd}",
                f"--containerd-namespace=moby-{driver}",
                f"--containerd-plugins-namespace=plugins-{driver}",
                "--feature=containerd-snapshotter=true",
            ]
        daemon = [
            *([*own_run, str(self._run)] if containerd is None else ()),
            "dockerd",
            f"--host=unix://{run}/docker.sock",
            "--experimental",
            f"--data-root={self._data}",
            f"--exec-root={run}/exec",
            f"--pidfile={run}/docker.pid",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            *storage,
        ]
        self.missing = start(daemon, self.docker("version"), self._run, stack)


def lacks_spares(home: Path) -> bool:
    """Whether a home is to have more spares than are ready."""
    return any(one.ready < one.wanted for one in all_spares(str(home)))


def listener(path: Path) -> int:
    """The process id of who listens at the Unix socket ``path`` (unix(7), SO_PEERCRED)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    process: int = _PEER.unpack(credentials)[0]
    return process


def docker_vfs(setting: Setting, stack: ExitStack) -> Rival:
    """``docker create`` with the storage driver vfs, on the file system that is measured."""
    return creation(Engine(setting, stack, "vfs"), setting)


def creation(engine: Engine, setting: Setting) -> Rival:
    """``docker create``."""
    if engine.missing is None:
        engine.load(setting)
    return Rival(
        f"docker create ({engine.name})",
        engine.docker("create", "--name=bench", "tree", "true"),
        after=partial(engine.remove, "bench"),
        missing=engine.missing,
    )
