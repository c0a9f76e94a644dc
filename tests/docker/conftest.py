"""A daemon with our plugin for all tests that do not end it, and an image for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docker.daemons import Dockerd, Plugin, running
from tests.docker.trees import busybox_tree, pack
from tests.driver.layers import put_to_rest


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of a root file system with busybox."""
    folder = tmp_path_factory.mktemp("busybox")
    return pack(busybox_tree(folder / "tree"), folder / "busybox.tar")


@pytest.fixture(scope="module")
def docker_and_plugin(
    file_system: Callable[[str], Path], busybox: Path
) -> Iterator[tuple[Dockerd, Plugin]]:
    """A daemon on XFS with the image ``busybox``, and its plugin."""
    data = file_system("xfs") / "docker"
    with running(data) as (dockerd, plugin):
        dockerd.run("import", busybox, "busybox")
        yield dockerd, plugin
    put_to_rest(data / "reflayer")
    shutil.rmtree(data)


@pytest.fixture(scope="module")
def docker(docker_and_plugin: tuple[Dockerd, Plugin]) -> Dockerd:
    """The daemon."""
    return docker_and_plugin[0]


@pytest.fixture(scope="module")
def docker_plugin(docker_and_plugin: tuple[Dockerd, Plugin]) -> Plugin:
    """Its plugin."""
    return docker_and_plugin[1]
