"""The daemon's options that reach the driver: sizes, and users that are remapped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.daemons import Dockerd, running
from tests.docker.quotas import mounted_with_quotas

_FILL = ["sh", "-c", "head -c 60000000 /dev/zero >/large"]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, busybox: Path) -> Iterator[Dockerd]:
    """A daemon whose containers may take 50 MiB each."""
    folder = tmp_path_factory.mktemp("limited")
    with (
        mounted_with_quotas(folder) as place,
        running(place / "docker", "--storage-opt=size=50M") as (docker, _),
    ):
        docker.run("import", busybox, "busybox")
        yield docker


def test_a_container_has_the_daemon_s_size(limited: Dockerd) -> None:
    done = limited.try_to("run", "--rm", "--network=none", "busybox", *_FILL)
    assert done.returncode != 0
    assert "No space left" in done.stderr or "quota" in done.stderr


def test_a_container_has_its_own_size(limited: Dockerd) -> None:
    own = ["--storage-opt", "size=100M"]
    limited.run("run", "--rm", "--network=none", *own, "busybox", *_FILL)


def test_an_image_may_be_larger_than_a_container(limited: Dockerd) -> None:
    own = ["--storage-opt", "size=100M"]
    limited.run("run", "--name=large", "--network=none", *own, "busybox", *_FILL)
    limited.run("commit", "large", "large")
    sizes = limited.run("inspect", "--format={{.Size}}", "large")
    assert int(sizes) > 60_000_000


def test_a_size_that_cannot_be_kept_is_an_error(docker: Dockerd) -> None:
    done = docker.try_to("create", "--storage-opt=size=1G", "busybox", "true")
    assert done.returncode != 0
    assert "does not support, or has not enabled quotas" in done.stderr


def test_root_in_a_container_is_another_user_outside(busybox: Path) -> None:
    ids = {"subuid": "nobody:100000:65536\n", "subgid": "nobody:200000:65536\n"}
    with tempfile.TemporaryDirectory(prefix="reflayer-docker-") as folder:  # pytest's is root's
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        with running(data, "--userns-remap=nobody:nogroup", etc=ids) as (docker, _):
            run_and_commit(docker, busybox)


def run_and_commit(docker: Dockerd, busybox: Path) -> None:
    docker.run("import", busybox, "busybox")
    script = "touch /new && chown 5:7 /new && stat -c %u:%g /new /bin/busybox"
    ran = docker.run("run", "--name=remapped", "--network=none", "busybox", "sh", "-c", script)
    assert ran.split() == ["5:7", "0:0"]
    status = (docker.layer("remapped") / "new").stat()
    assert (status.st_uid, status.st_gid) == (100_005, 200_007)
    docker.run("commit", "remapped", "remapped")
    owner = docker.run("run", "--rm", "--network=none", "remapped", "stat", "-c", "%u:%g", "/new")
    assert owner == "5:7"
