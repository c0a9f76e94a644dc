"""One daemon with our plugin for all tests that do not end it, and an image for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.daemons import Dockerd, running
from tests.docker.trees import busybox_tree, pack


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of a root file system with busybox."""
    folder = tmp_path_factory.mktemp("busybox")
    return pack(busybox_tree(folder / "tree"), folder / "busybox.tar")


@pytest.fixture(scope="session")
def docker(file_system: Callable[[str], Path], busybox: Path) -> Iterator[Dockerd]:
    """A daemon on XFS with the image ``busybox``."""
    with running(file_system("xfs") / "docker") as (dockerd, _):
        dockerd.run("import", busybox, "busybox")
        yield dockerd
