"""containerd and reflayer's daemon, side by side, for one test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.containerd_programs.containerd import Containerd, containerd
from tests.containerd_programs.daemon import Daemon
from tests.file_systems import require, require_root

REFLAYER = Path(sys.executable).with_name("reflayer")


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


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(place)`` starts both, the snapshots in ``place``; they are gone after the test.

    ``pause`` is the image of pods, ``services`` what ours serves, and ``under`` the program that
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
            printed = subprocess.run(
                [REFLAYER, "containerd-config", "--socket", socket, "--home", home],
                stdout=subprocess.PIPE,
                check=True,
            )
            (folder / "reflayer.toml").write_bytes(printed.stdout)
            theirs = containerd(folder, folder / "reflayer.toml", pause=pause)
            return Pair(stack.enter_context(theirs), ours, home)

        yield both


@pytest.fixture
def xfs_pair(start: Start, place_on: Callable[[str], Path]) -> Pair:
    """Both, the snapshots on XFS."""
    return start(place_on("xfs"))


@pytest.fixture
def pair(start: Start, place: Path) -> Pair:
    """Both, the snapshots on each file system in turn."""
    return start(place)


def free(place: Path) -> int:
    """Free bytes of the file system of ``place``."""
    status = os.statvfs(place)
    return status.f_bfree * status.f_frsize
