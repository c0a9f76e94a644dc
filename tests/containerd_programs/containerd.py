"""Debian's containerd, with folders and sockets of its own, and ctr to speak with it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containerd_programs.daemon import Daemon
from tests.file_systems import require

SNAPSHOTTER = "reflayer"

_CONFIG = """\
version = {version}
root = "{folder}/root"
state = "{folder}/state"
temp = "{folder}/temp"
imports = ["{imported}"]
disabled_plugins = ["io.containerd.internal.v1.opt"]
"""
_SOCKET = """
[grpc]
  address = "{folder}/socket"
"""
_SOCKET_4 = """
[plugins."io.containerd.server.v1.grpc"]
  address = "{folder}/socket"
[plugins."io.containerd.server.v1.ttrpc"]
  address = "{folder}/socket.ttrpc"
"""
"""The same for version 4 of the configuration, which passes over the table of those before."""
_CRI = """
[plugins."io.containerd.grpc.v1.cri"]
  disable_apparmor = true
  restrict_oom_score_adj = true  # where a lower one is not permitted
  netns_mounts_under_state_dir = true
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{folder}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{folder}/cni"
    conf_dir = "{folder}/net.d"
"""
_CRI_3 = """
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      Root = "{folder}/runc"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{folder}/cni"]
    conf_dir = "{folder}/net.d"
"""
"""The same for version 3 of the configuration."""
_AT_ONCE = """
[debug]
  level = "debug"  # at which it logs whether it does
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_unpacks = {at_once}
"""
_LOOPBACK = "/usr/lib/cni/loopback"
_NETWORK = '{"cniVersion": "0.4.0", "name": "none", "plugins": [{"type": "none"}]}'
_NETWORK_PLUGIN = """\
#!/bin/sh
# Tell of an interface beside loopback, without which there is no pod; nothing is made.
cat <<END
{"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "sandbox": "$CNI_NETNS"}],
 "ips": [{"version": "4", "interface": 0, "address": "192.0.2.2/24"}]}
END
"""


class Containerd(Daemon):
    """One containerd.

    Attributes:
        folder: all that is its own, but for the sockets of its shims.
    """

    def __init__(
        self,
        folder: Path,
        imported: Path,
        *,
        pause: str = "",
        config_version: int = 2,
        at_once: int = 1,
    ) -> None:
        """Write its configuration.

        Args:
            folder: where it keeps everything; its path has to be short, for the socket.
            imported: the TOML file with the snapshotter.
            pause: the image of sandboxes, where Kubernetes' plugin is needed.
            config_version: of the configuration, the imported file's too.
            at_once: layers of an image that are unpacked at once.
        """
        self.folder = folder
        config = folder / "config.toml"
        text = _CONFIG.format(version=config_version, folder=folder, imported=imported)
        text += (_SOCKET_4 if config_version >= 4 else _SOCKET).format(folder=folder)
        if at_once > 1:
            text += _AT_ONCE.format(at_once=at_once)
        if pause:
            if release()[0] < 2:
                # There an imported file's table replaces this file's, so they have to be in one.
                text = text.replace(f'imports = ["{imported}"]\n', "")
                text += imported.read_text().replace(f"version = {config_version}\n", "")
            cri = _CRI_3 if config_version >= 3 else _CRI
            text += cri.format(folder=folder, pause=pause)
            _make_network(folder)
        config.write_text(text)
        super().__init__(
            ["containerd", "--config", config], folder / "socket", folder / "containerd.log"
        )

    def ctr(self, *arguments: str | Path) -> str:
        """What ctr prints, which must succeed."""
        return self.output(*arguments).decode()

    def output(self, *arguments: str | Path) -> bytes:
        """The same where it is no text."""
        done = self.try_ctr(*arguments)
        told = done.stderr.decode()
        assert done.returncode == 0, f"ctr {' '.join(map(str, arguments))}: {told}"
        return done.stdout

    def try_ctr(self, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run ctr."""
        return subprocess.run(
            ["ctr", *arguments],
            env={
                **os.environ,
                "CONTAINERD_ADDRESS": str(self.address),
                "CONTAINERD_SNAPSHOTTER": SNAPSHOTTER,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=120,
        )

    def run(self, image: str, name: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """What ``command`` prints in a new container.

        Its shim writes that to a file: containerd 1.6's client closes the pipe that it reads
        from before it waits for the end of it (``task.Delete``), so on a busy machine ctr now
        and then prints nothing.
        """
        printed = self.folder / f"{name}.printed"
        printed.unlink(missing_ok=True)
        root = f"--runc-root={self.folder / 'runc'}"
        self.ctr("run", root, f"--log-uri=file://{printed}", *options, image, name, *command)
        return printed.read_text()

    def snapshots(self) -> dict[str, tuple[str, str]]:
        """Kind and parent of each snapshot by name."""
        rows = [line.split() for line in self.ctr("snapshots", "ls").splitlines()[1:]]
        return {row[0]: (row[-1], row[1] if len(row) > 2 else "") for row in rows}

    def collect(self) -> None:
        """Collect garbage now, so that a view, which ctr protects from nobody, stays a while."""
        self.ctr("leases", "create", "--id", "collect")
        self.ctr("leases", "rm", "--sync", "collect")

    def mount(self, key: str) -> tuple[Path, str]:
        """What is bound for a snapshot, and the options of the mount."""
        words = self.ctr("snapshots", "mounts", "/target", key).split()
        assert words[:3] == ["mount", "-t", "bind"]
        assert words[4] == "/target"
        assert words[5] == "-o"
        return Path(words[3]), words[6]

    def clean(self) -> None:
        """End all that runs in it, itself, and what it mounted."""
        if self.try_ctr("version").returncode == 0:
            for space in self.ctr("namespaces", "ls", "-q").split():
                for task in self.ctr("-n", space, "tasks", "ls", "-q").split():
                    self.try_ctr("-n", space, "tasks", "rm", "--force", task)
        self.stop()
        for pid in _shims(self.address):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for place in _mounts(self.folder):
            subprocess.run(["umount", "--lazy", place], check=True)


def release() -> tuple[int, int]:
    """Major and minor number of the containerd that is installed."""
    command = ["containerd", "--version"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"\bv?(\d+)\.(\d+)\.\d+", told)
    assert match is not None, told
    return int(match[1]), int(match[2])


def require_unpacking_at_once() -> None:
    """Skip the test where the installed containerd is too old for it: then there is no other."""
    require("containerd")
    if release() < (2, 2):
        pytest.skip("this containerd unpacks one layer after the other")


def require_runtime_snapshotters() -> None:
    """Skip the test where the installed containerd has one snapshotter for all pods.

    There is no other to be installed, so under CI it is no failure.
    """
    require("containerd")
    if release() < (1, 7):
        pytest.skip("this containerd has one snapshotter for the pods of all runtimes")


def require_config_version(version: int) -> None:
    """Skip the test where the installed containerd, too old for it, has no such configuration.

    There is no other to be installed, so under CI it is no failure.
    """
    require("containerd")
    major, minor = release()
    if (major, minor) < {2: (1, 3), 3: (2, 0), 4: (2, 3)}[version]:
        pytest.skip(f"containerd {major}.{minor} reads no configuration of version {version}")


@contextmanager
def containerd(
    folder: Path, imported: Path, *, pause: str = "", config_version: int = 2, at_once: int = 1
) -> Iterator[Containerd]:
    """A containerd that serves, and is gone afterwards with all it started."""
    running = Containerd(
        folder, imported, pause=pause, config_version=config_version, at_once=at_once
    )
    try:
        running.start()
        yield running
    finally:
        running.clean()


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until ``holds()``, which has to come true soon."""
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, f"it did not happen: {what}"
        time.sleep(0.05)


def _make_network(folder: Path) -> None:
    (folder / "net.d").mkdir()
    (folder / "net.d/none.conflist").write_text(_NETWORK)
    (folder / "cni").mkdir()
    (folder / "cni/loopback").symlink_to(_LOOPBACK)
    (folder / "cni/none").write_text(_NETWORK_PLUGIN)
    (folder / "cni/none").chmod(0o755)


def _shims(address: object) -> list[int]:
    """The processes that were started for the containerd at ``address``."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            if b"shim" in words[0] and str(address).encode() in words:
                found.append(int(entry))
    return found


def _mounts(folder: Path) -> list[str]:
    """What is mounted below ``folder``, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines]
    return [place for place in reversed(places) if place.startswith(f"{folder}/")]
