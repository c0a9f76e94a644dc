"""Docker keeps its images and containers in containerd, on our snapshots."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containerd_programs.conftest import REFLAYER, Pair, starting
from tests.containerd_programs.containerd import until
from tests.containerd_programs.docker import (
    Docker,
    docker,
    has_build_kit,
    require_images_in_containerd,
)
from tests.containerd_programs.images import TIME, busybox


@pytest.fixture(scope="module")
def pair(file_system: Callable[[str], Path]) -> Iterator[Pair]:
    """containerd and ours."""
    require_images_in_containerd()
    with starting() as start:
        yield start(file_system("xfs") / "docker-images")


@pytest.fixture(scope="module")
def engine(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Docker, with nothing but what ``reflayer containerd-config docker`` prints, and an image."""
    folder = tmp_path_factory.mktemp("engine")
    printed = subprocess.run(
        [REFLAYER, "containerd-config", "docker"], stdout=subprocess.PIPE, check=True
    )
    (folder / "daemon.json").write_bytes(printed.stdout)
    with docker(pair.containerd, folder / "daemon.json") as engine:
        (folder / "busybox.tar").write_bytes(busybox())
        engine.run("import", folder / "busybox.tar", "busybox")
        yield engine


def snapshots(pair: Pair) -> set[str]:
    """The snapshots of Docker's namespace."""
    rows = pair.containerd.ctr("-n", "moby", "snapshots", "ls").splitlines()[1:]
    return {row.split()[0] for row in rows}


def said(engine: Docker, image: str, script: str) -> str:
    """What ``script`` prints in a container of ``image``, which goes again."""
    return engine.run("run", "--rm", "--network=none", image, "sh", "-ec", script)


def changed(engine: Docker, name: str) -> None:
    """Make the stopped container ``name``, which has changed something."""
    script = "echo new >/etc/new; rm /bin/mv; rm -r /tmp; mkdir /tmp; echo x >/tmp/x"
    engine.run("run", f"--name={name}", "--network=none", "busybox", "sh", "-ec", script)


def test_docker_tells_that_its_storage_driver_is_ours(engine: Docker) -> None:
    text = engine.run("info", "--format={{.Driver}} {{.DriverStatus}}")
    assert text == "reflayer [[driver-type io.containerd.snapshotter.v1]]"


def test_what_a_container_changed_is_told_committed_and_exported(
    engine: Docker, tmp_path: Path
) -> None:
    changed(engine, "changed")
    lines = ["A /etc/new", "A /tmp/x", "C /bin", "C /etc", "C /tmp", "D /bin/mv"]
    assert sorted(engine.run("diff", "changed").splitlines()) == lines
    engine.run("cp", "changed:/etc/new", tmp_path / "new")
    assert (tmp_path / "new").read_text() == "new\n"
    engine.run("export", "--output", tmp_path / "root.tar", "changed")
    with tarfile.open(tmp_path / "root.tar") as exported:
        assert {"etc/new", "tmp/x", "bin/busybox"} <= set(exported.getnames())
    engine.run("commit", "changed", "committed")
    assert said(engine, "committed", "cat /etc/new /tmp/x; ls /bin/mv || true") == "new\nx"
    told = json.loads(engine.run("inspect", "--format={{json .RootFS.Layers}}", "committed"))
    assert len(told) == 2


def test_an_image_is_saved_and_loaded(engine: Docker, tmp_path: Path) -> None:
    changed(engine, "saving")
    engine.run("commit", "saving", "saved")
    engine.run("save", "--output", tmp_path / "saved.tar", "saved")
    engine.run("rm", "saving")
    engine.run("rmi", "saved")
    engine.run("load", "--input", tmp_path / "saved.tar")
    assert said(engine, "saved", "cat /etc/new /tmp/x") == "new\nx"


def test_an_image_is_pulled_and_is_what_its_layers_say(engine: Docker, registry: str) -> None:
    engine.run("pull", f"{registry}/image:t")
    script = "cat /kept/file /white/stays; ls /opaque; ls /white; stat -c %Y /deep"
    words = said(engine, f"{registry}/image:t", script).split()
    assert words == ["firstreplacednew", "stays", str(TIME + 10)]


@pytest.mark.parametrize("build_kit", [False, True], ids=["classic", "BuildKit"])
def test_an_image_is_built(engine: Docker, tmp_path: Path, build_kit: bool) -> None:
    if build_kit and not has_build_kit():
        pytest.skip("Docker's command line has no BuildKit here")
    place = tmp_path / "context"
    place.mkdir()
    (place / "a file").write_text("content")
    (place / "Dockerfile").write_text(
        'FROM busybox\nCOPY ["a file", "/copied file"]\n'
        "RUN echo 1 >/1 && echo 2 >/2\nRUN rm /1 && chmod 600 /2\n"
    )
    engine.run("build", "--network=none", "--tag=built", place, build_kit=build_kit)
    script = 'cat "/copied file"; echo; stat -c %a /2; ls /1 || true'
    assert said(engine, "built", script) == "content\n600"


def test_containers_outlive_a_restart_of_docker(engine: Docker) -> None:
    script = "cat /etc/new; echo new >/etc/new"
    engine.run("create", "--name=outliving", "--network=none", "busybox", "sh", "-c", script)
    assert engine.run("start", "--attach", "outliving") == ""
    engine.stop()
    engine.start()
    assert "A /etc/new" in engine.run("diff", "outliving").splitlines()
    assert engine.run("start", "--attach", "outliving") == "new"


def test_what_is_removed_leaves_nothing(engine: Docker, pair: Pair) -> None:
    changed(engine, "passing")
    engine.run("commit", "passing", "passed")
    engine.run("create", "--name=created", "passed", "true")
    before = snapshots(pair)
    engine.run("rm", "passing", "created")
    until(lambda: len(before - snapshots(pair)) >= 2, "their snapshots are gone")
    engine.run("rmi", "passed")
    engine.run("system", "prune", "--all", "--force")
    assert engine.run("ps", "--all", "--quiet") == ""
    assert engine.run("images", "--all", "--quiet") == ""
    until(lambda: snapshots(pair) == set(), "all snapshots are gone")
    until(lambda: not any(pair.home.rglob("trash/*")), "the trash is empty")
