"""containerd and reflayer's daemon, side by side, for one test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.containerd_programs.containerd import Containerd, containerd
from tests.containerd_programs.daemon import Daemon, free_port
from tests.containerd_programs.images import busybox, layers, layout
from tests.file_systems import require, require_root

REFLAYER = Path(sys.executable).with_name("reflayer")
_REGISTRY = """\
version: 0.1
storage:
  filesystem:
    rootdirectory: {folder}
http:
  addr: {host}:{port}
"""


@dataclass(frozen=True)
class Pair:
    """The two daemons.

    Attributes:
        home: where the snapshots are.
    """

    containerd: Containerd
    reflayer: Daemon
    home: Path


Start = Callable[..., Pair]


@contextmanager
def starting() -> Iterator[Start]:
    """``start(place)`` starts both, the snapshots in ``place``; they are gone afterwards.

    ``pause`` is the image of pods, ``config_version`` that of containerd's file, ``at_once`` how
    many layers it unpacks at once, ``services`` what ours serves, and ``under`` the program that
    starts ours.
    """
    require_root()
    require("containerd", "ctr", "runc", "busybox")
    with ExitStack() as stack:
        # Not below pytest's folder: a socket's path has to be short (unix(7)).
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ctr-")))

        def both(
            place: Path,
            *,
            pause: str = "",
            config_version: int = 2,
            runtime_class: str = "",
            at_once: int = 1,
            services: tuple[str, ...] = ("containerd",),
            under: tuple[str, ...] = (),
        ) -> Pair:
            home, socket = place / "snapshots", folder / "reflayer.sock"
            where = [f"--containerd-socket={socket}", f"--home={home}"]
            where += [f"--docker-socket={folder / 'docker.sock'}"] if "docker" in services else []
            ours = Daemon(
                [*under, REFLAYER, "serve", *services, *where], socket, folder / "reflayer.log"
            )
            stack.callback(ours.stop)
            ours.start()
            told = [f"--socket={socket}", f"--home={home}", f"--config-version={config_version}"]
            told += [f"--runtime-class={runtime_class}"] if runtime_class else []
            printed = subprocess.run(
                [REFLAYER, "containerd-config", *told], stdout=subprocess.PIPE, check=True
            )
            (folder / "reflayer.toml").write_bytes(printed.stdout)
            theirs = containerd(
                folder,
                folder / "reflayer.toml",
                pause=pause,
                config_version=config_version,
                at_once=at_once,
            )
            return Pair(stack.enter_context(theirs), ours, home)

        yield both


@pytest.fixture
def start() -> Iterator[Start]:
    """The same for one test."""
    with starting() as start:
        yield start


@pytest.fixture
def xfs_pair(start: Start, place_on: Callable[[str], Path]) -> Pair:
    """Both, the snapshots on XFS."""
    return start(place_on("xfs"))


@pytest.fixture
def pair(start: Start, place: Path) -> Pair:
    """Both, the snapshots on each file system in turn."""
    return start(place)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Host and port of a registry with the images ``pause`` and ``image``."""
    require("docker-registry", "skopeo", "/usr/lib/cni/loopback")
    host, port = "127.0.0.1", free_port()
    config = tmp_path / "registry.yml"
    config.write_text(_REGISTRY.format(folder=tmp_path / "registry", host=host, port=port))
    daemon = Daemon(["docker-registry", "serve", config], (host, port), tmp_path / "registry.log")
    try:
        daemon.start()
        shell, path = busybox(), ["PATH=/bin"]
        pause = layout(tmp_path / "pause", "t", shell, Cmd=["sleep", "1000000"], Env=path)
        image = layout(tmp_path / "image", "t", shell, *layers(), Env=path)
        for name, place in (("pause", pause), ("image", image)):
            to = f"docker://{host}:{port}/{name}:t"
            subprocess.run(
                ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{place}:t", to],
                check=True,
            )
        yield f"{host}:{port}"
    finally:
        daemon.stop()


def free(place: Path) -> int:
    """Free bytes of the file system of ``place``."""
    status = os.statvfs(place)
    return status.f_bfree * status.f_frsize
