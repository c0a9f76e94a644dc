"""Daemon and plugin end, as they should and as they should not, and nothing is lost by it."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.archive.tars import entry, tar
from tests.docker.daemons import Dockerd, Plugin, running, wait_until
from tests.driver.layers import tree

_WIDE = 15_000  # names in a folder: a clone of it takes long enough to be broken off


@pytest.fixture(scope="module")
def both(file_system: Callable[[str], Path], busybox: Path) -> Iterator[tuple[Dockerd, Plugin]]:
    """A daemon that leaves its containers running when it ends, and its plugin."""
    with running(file_system("xfs") / "restarted", "--live-restore") as (dockerd, plugin):
        dockerd.run("import", busybox, "busybox")
        yield dockerd, plugin


def works(docker: Dockerd) -> None:
    """Fail unless the daemon makes, runs, commits, clones and removes a container."""
    docker.run("run", "--name=works", "--network=none", "busybox", "touch", "/new")
    assert docker.run("diff", "works") == "A /new"
    docker.run("commit", "works", "works")
    docker.run("rm", "works")
    docker.run("create", "--name=again", "works", "true")
    assert (docker.layer("again") / "new").is_file()
    docker.run("rm", "again")
    docker.run("rmi", "works")


def leftovers(docker: Dockerd) -> list[str]:
    """What is being made or deleted."""
    home = docker.data / "reflayer"
    return os.listdir(home / "tmp") + os.listdir(home / "trash")


def test_containers_are_there_after_the_daemon_was_restarted(
    both: tuple[Dockerd, Plugin],
) -> None:
    docker, _ = both
    docker.run("run", "--name=stopped", "--network=none", "busybox", "touch", "/kept")
    before = tree(docker.layer("stopped"))
    docker.stop()
    docker.start()
    assert tree(docker.layer("stopped")) == before
    works(docker)
    docker.run("rm", "stopped")


@pytest.mark.parametrize("end", [Dockerd.stop, Dockerd.kill], ids=["stopped", "killed"])
def test_a_container_runs_on_without_the_daemon(
    both: tuple[Dockerd, Plugin], end: Callable[[Dockerd], None]
) -> None:
    docker, _ = both
    docker.run("run", "--detach", "--name=running", "--network=none", "busybox", "sleep", "1000")
    end(docker)
    docker.start()
    docker.run("exec", "running", "touch", "/new")
    assert docker.run("diff", "running") == "A /new"
    docker.run("rm", "--force", "running")
    works(docker)


@pytest.mark.parametrize("end", [Plugin.stop, Plugin.kill], ids=["stopped", "killed"])
def test_a_container_runs_on_without_the_plugin(
    both: tuple[Dockerd, Plugin], end: Callable[[Plugin], object]
) -> None:
    docker, plugin = both
    docker.run("run", "--detach", "--name=running", "--network=none", "busybox", "sleep", "1000")
    process = docker.run("inspect", "--format={{.State.Pid}}", "running")
    end(plugin)
    Path(f"/proc/{process}/root/new").touch()
    plugin.start()
    assert docker.run("diff", "running") == "A /new"
    works(docker)
    docker.run("rm", "--force", "running")


def test_a_daemon_waits_for_a_plugin_that_is_being_restarted(
    both: tuple[Dockerd, Plugin],
) -> None:
    docker, plugin = both
    plugin.kill()
    command = docker.command("create", "--name=waiting", "busybox", "true")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=docker.environment()) as creating:
        wait_until(lambda: "Unable to connect to plugin" in docker.log.read_text())
        plugin.start()
        creating.communicate(timeout=60)
    assert creating.returncode == 0
    docker.run("rm", "waiting")


def test_a_plugin_killed_amid_a_create_leaves_nothing(
    both: tuple[Dockerd, Plugin], tmp_path: Path
) -> None:
    docker, plugin = both
    with tarfile.open(tmp_path / "wide.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("0"))
        for number in range(1, _WIDE):
            link = tarfile.TarInfo(str(number))
            link.type, link.linkname = tarfile.LNKTYPE, "0"
            archive.addfile(link)
    docker.run("import", tmp_path / "wide.tar", "wide")
    layers = set(os.listdir(docker.data / "reflayer/dir"))
    command = docker.command("create", "--name=broken", "wide", "true")
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=docker.environment()) as creating:
        wait_until(lambda: os.listdir(docker.data / "reflayer/tmp") != [])
        plugin.kill()
        plugin.start()
        _, errors = creating.communicate(timeout=60)
    if creating.returncode == 0:  # newer ones send all of it again
        docker.run("rm", "broken")
    else:  # Docker sends it again without what it had sent
        assert b"the request is empty" in errors
    assert set(os.listdir(docker.data / "reflayer/dir")) == layers
    wait_until(lambda: leftovers(docker) == [])
    works(docker)
    docker.run("create", "--name=whole", "wide", "true")
    assert len(os.listdir(docker.layer("whole"))) >= _WIDE
    docker.run("rm", "whole")
    docker.run("rmi", "wide")


def test_a_plugin_killed_amid_an_import_leaves_no_image_that_is_not_whole(
    both: tuple[Dockerd, Plugin],
) -> None:
    docker, plugin = both
    images = docker.run("images", "--all", "--quiet")
    layers = set(os.listdir(docker.data / "reflayer/dir"))
    archive = b"".join(
        tar(entry(f"file{number}", bytes(4096)), end=False) for number in range(2_000)
    ) + bytes(1024)
    half = len(archive) // 2
    command = docker.command("import", "-", "broken")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=docker.environment()
    ) as importing:
        assert importing.stdin is not None
        importing.stdin.write(archive[:half])
        wait_until(lambda: os.listdir(docker.data / "reflayer/tmp") != [])
        plugin.kill()
        plugin.start()
        with suppress(BrokenPipeError):  # it has failed already
            importing.stdin.write(archive[half:])
            importing.stdin.close()
        importing.wait(60)
    assert importing.returncode != 0
    assert docker.run("images", "--all", "--quiet") == images
    wait_until(lambda: leftovers(docker) == [])
    assert set(os.listdir(docker.data / "reflayer/dir")) == layers
    works(docker)
