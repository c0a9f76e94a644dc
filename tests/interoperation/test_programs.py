"""What we save other programs read, as the same root file system; and what they save we read."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from reflayer import Store
from tests.docker.daemons import Dockerd, folder_for_daemons
from tests.file_systems import require
from tests.interoperation.conftest import Made
from tests.trees import assert_same, facts

_TIMEOUT = 100  # seconds


@pytest.fixture
def base(place_on: Callable[[str], Path]) -> Path:
    """A new folder on XFS."""
    return place_on("xfs")


@pytest.fixture
def layout(base: Path, made: Made) -> str:
    """The image in a layout, as ``oci:`` and its place."""
    made.store.save(made.name, f"oci:{base}/layout:x")
    return f"oci:{base}/layout:x"


@pytest.fixture
def archive(base: Path, made: Made) -> Path:
    """The image in an archive."""
    made.store.save(made.name, f"docker-archive:{base}/archive.tar")
    return base / "archive.tar"


class Containers(NamedTuple):
    """Podman and buildah over one storage of their own."""

    root: Path
    run_root: Path

    def run(self, program: str, *arguments: str | Path) -> str:
        """What ``PROGRAM ARGUMENTS`` prints."""
        own = ("--root", self.root, "--runroot", self.run_root)
        return run(program, *own, "--storage-driver", "vfs", *arguments)


@pytest.fixture
def containers(base: Path) -> Iterator[Containers]:
    """Podman and buildah, which have nothing yet."""
    require("podman", "buildah")
    run_root = tempfile.mkdtemp(prefix="reflayer-")  # podman wants it short
    containers = Containers(base / "containers", Path(run_root))
    try:
        yield containers
        containers.run("buildah", "rm", "--all")
        containers.run("podman", "image", "umount", "--all")
    finally:
        shutil.rmtree(run_root)


@pytest.fixture(scope="module")
def docker(file_system: Callable[[str], Path]) -> Iterator[Dockerd]:
    """A Docker daemon with its own vfs driver."""
    with folder_for_daemons() as folder:
        dockerd = Dockerd(folder, file_system("xfs") / "docker-vfs")
        try:
            dockerd.start("vfs")
            yield dockerd
        finally:
            dockerd.tear_down()


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def assert_is(made: Made, root: Path, *, root_time: bool = True) -> None:
    """Fail unless the tree at ``root`` is that of the image.

    The vfs drivers of Docker and of Podman lose the time of the root itself: not ``root_time``.
    """
    told = facts(root, atime=False)
    if not root_time:
        told[b"."] = told[b"."]._replace(mtime=made.tree[b"."].mtime)
    assert_same(made.tree, told)


def assert_comes_in(base: Path, made: Made, place: str) -> None:
    """Fail unless a store of ours makes the same of what is at ``place``."""
    store = Store(base / "store")
    assert_is(made, Path(store.create(place).path))
    (image,) = store.images()
    assert image.id == made.id


def test_skopeo_reads_a_layout(made: Made, base: Path, layout: str) -> None:
    require("skopeo")
    told = json.loads(run("skopeo", "inspect", "--config", layout))
    assert told["config"]["Cmd"] == ["/bin/sh"]
    assert told["history"][-1]["comment"] == "changed"
    run("skopeo", "copy", layout, f"docker-archive:{base}/theirs.tar:example:2")
    assert_comes_in(base, made, f"docker-archive:{base}/theirs.tar:example:2")


def test_skopeo_reads_an_archive(made: Made, base: Path, archive: Path) -> None:
    require("skopeo")
    assert "example:1" in run("skopeo", "list-tags", f"docker-archive:{archive}")
    run("skopeo", "copy", f"docker-archive:{archive}", f"oci:{base}/theirs:x")
    # It writes the config anew on the way to another format.
    store = Store(base / "store")
    assert_is(made, Path(store.create(f"oci:{base}/theirs:x").path))


def test_umoci_unpacks_a_layout(made: Made, base: Path, layout: str) -> None:
    require("umoci")
    run("umoci", "unpack", "--image", layout.removeprefix("oci:"), base / "bundle")
    assert_is(made, base / "bundle/rootfs")


def test_umoci_adds_to_a_layout_and_we_to_what_umoci_made(
    made: Made, base: Path, layout: str
) -> None:
    require("umoci")
    place = layout.removeprefix("oci:")
    run("umoci", "config", "--image", place, "--tag", "other", "--config.user", "nobody")
    made.store.save(made.name, f"oci:{base}/layout:third")
    assert set(run("umoci", "list", "--layout", base / "layout").split()) == {"x", "other", "third"}
    run("umoci", "gc", "--layout", base / "layout")
    store = Store(base / "store")
    assert_is(made, Path(store.create(f"oci:{base}/layout:other").path))
    assert_is(made, Path(store.create(f"oci:{base}/layout:third").path))


def test_buildah_and_podman_read_a_layout_and_we_theirs(
    made: Made, base: Path, containers: Containers, layout: str
) -> None:
    container = containers.run("buildah", "from", layout)
    assert_is(made, Path(containers.run("buildah", "mount", container)), root_time=False)
    image = containers.run("podman", "images", "--quiet", "--no-trunc")
    assert image == made.id
    containers.run("buildah", "push", image.removeprefix("sha256:"), f"oci:{base}/pushed:x")
    assert_comes_in(base, made, f"oci:{base}/pushed:x")


def test_podman_loads_an_archive_and_we_what_it_saves(
    made: Made, base: Path, containers: Containers, archive: Path
) -> None:
    assert "docker.io/library/example:1" in containers.run("podman", "load", "--input", archive)
    assert_is(made, Path(containers.run("podman", "image", "mount", "example:1")), root_time=False)
    for form, place in (
        ("docker-archive", f"docker-archive:{base}/theirs"),
        ("oci-dir", f"oci:{base}/theirs"),
    ):
        containers.run("podman", "save", "--format", form, "--output", base / "theirs", "example:1")
        assert_comes_in(base, made, place)
        (base / "theirs").rename(base / form)


def test_podman_reads_zstd(made: Made, base: Path, containers: Containers) -> None:
    store = Store(base / "zstd")
    store.create(f"docker-archive:{_saved(made, base)}", name="zstd")
    store.save("example:1", f"oci:{base}/layout:x", compression="zstd")
    container = containers.run("buildah", "from", f"oci:{base}/layout:x")
    assert_is(made, Path(containers.run("buildah", "mount", container)), root_time=False)


def test_docker_loads_an_archive_and_we_what_it_saves(
    made: Made, base: Path, docker: Dockerd, archive: Path
) -> None:
    assert docker.run("load", "--input", archive) == "Loaded image: example:1"
    assert docker.run("inspect", "--format={{.Id}}", "example:1") == made.id
    assert docker.run("inspect", "--format={{.Config.Cmd}}", "example:1") == "[/bin/sh]"
    assert "reflayer commit" in docker.run("history", "--no-trunc", "example:1")
    assert_is(made, _unpacked_by(docker, "example:1"), root_time=False)
    docker.run("save", "--output", base / "theirs.tar", "example:1")
    assert_comes_in(base, made, f"docker-archive:{base}/theirs.tar")


def test_we_commit_what_docker_saved_and_docker_loads_it(
    base: Path, docker: Dockerd, archive: Path
) -> None:
    """A layer of theirs between two of ours, and a hard link through all of them."""
    docker.run("load", "--input", archive)
    docker.run("create", "--name", "theirs", "example:1")
    docker.run("commit", "--change", "USER nobody", "theirs", "theirs")
    docker.run("rm", "theirs")
    docker.run("save", "--output", base / "theirs.tar", "theirs")
    store = Store(base / "store")
    container = Path(store.create(f"docker-archive:{base}/theirs.tar", name="ours").path)
    (container / "bin/third").hardlink_to(container / "bin/sh")
    store.commit("ours", "ours")
    store.save("ours", f"docker-archive:{base}/ours.tar")
    docker.run("load", "--input", base / "ours.tar")
    assert docker.run("inspect", "--format={{.Config.User}}", "ours") == "nobody"
    there = _unpacked_by(docker, "ours")
    ours = Path(store.create("ours").path)
    left, right = facts(ours, atime=False), facts(there, atime=False)
    right[b"."] = right[b"."]._replace(mtime=left[b"."].mtime)
    assert_same(left, right)
    assert (there / "bin/third").stat().st_ino == (there / "bin/ash").stat().st_ino


def _saved(made: Made, base: Path) -> Path:
    made.store.save(made.name, f"docker-archive:{base}/plain.tar")
    return base / "plain.tar"


def _unpacked_by(docker: Dockerd, image: str) -> Path:
    """Where the vfs driver of Docker has the root file system of an image."""
    chain = ""
    for diff_id in json.loads(docker.run("inspect", "--format={{json .RootFS.Layers}}", image)):
        chain = _chain(chain, diff_id) if chain else diff_id
    layers = docker.data / "image/vfs/layerdb" / chain.replace(":", "/")
    return docker.data / "vfs/dir" / (layers / "cache-id").read_text()


def _chain(below: str, diff_id: str) -> str:
    return "sha256:" + hashlib.sha256(f"{below} {diff_id}".encode()).hexdigest()
