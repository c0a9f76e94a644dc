"""Docker with its images in containerd: no plugin of its own, but containerd's snapshotter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containerd_programs.containerd import Containerd
from tests.containerd_programs.daemon import Daemon
from tests.docker.daemons import docker_release
from tests.file_systems import require

_FIRST = 28
"""The version that has no other way to our layers, since it has no plugins of that kind."""


class Docker(Daemon):
    """A Docker daemon beside a containerd, and its command line."""

    def __init__(self, containerd: Containerd, config: Path) -> None:
        """To be started with the file ``config`` of settings."""
        folder = containerd.folder
        self._environment = {**os.environ, "DOCKER_CONFIG": str(folder / "docker-config")}
        command = [
            "dockerd",
            f"--config-file={config}",
            f"--containerd={containerd.address}",
            f"--host=unix://{folder}/docker",
            f"--data-root={folder}/docker-data",
            f"--exec-root={folder}/docker-exec",
            f"--pidfile={folder}/docker.pid",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
        ]
        super().__init__(command, folder / "docker", folder / "docker.log")

    def run(self, *arguments: str | Path, build_kit: bool = False) -> str:
        """What ``docker ARGUMENTS`` prints; it has to succeed."""
        done = subprocess.run(
            ["docker", f"--host=unix://{self.address}", *arguments],
            env={**self._environment, "DOCKER_BUILDKIT": str(int(build_kit))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        told = f"{done.stderr}\n{self.log.read_text(errors='replace')[-2000:]}"
        assert done.returncode == 0, f"docker {arguments}: {told}"
        return done.stdout.strip()


def require_images_in_containerd() -> None:
    """Skip the test where the installed Docker is too old to have its images in containerd.

    Debian 12 and 13 have no other, so under CI it is no failure.
    """
    require("dockerd", "docker")
    if docker_release() < _FIRST:
        pytest.skip(f"Docker {docker_release()} has its images elsewhere")


@contextmanager
def docker(containerd: Containerd, config: Path) -> Iterator[Docker]:
    """A Docker daemon, gone afterwards with its containers."""
    running = Docker(containerd, config)
    try:
        running.start()
        yield running
        for container in running.run("ps", "--all", "--quiet").split():
            running.run("rm", "--force", container)
    finally:
        running.stop()


def has_build_kit() -> bool:
    """Whether Docker's command line has the plugin that builds with BuildKit."""
    told = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False)
    return told.returncode == 0
