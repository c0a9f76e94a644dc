"""What people do with docker, with all layers in our plugin."""

from __future__ import annotations

from tests.docker.daemons import Dockerd


def test_info_tells_the_driver_and_how_it_clones(docker: Dockerd) -> None:
    text = docker.run("info", "--format={{.Driver}} {{.DriverStatus}}")
    assert text == "reflayer [[Backing Filesystem xfs] [Method reflink] [Shared Blocks true]]"


def test_a_container_runs(docker: Dockerd) -> None:
    said = docker.run("run", "--rm", "--network=none", "busybox", "echo", "hello")
    assert said == "hello"
