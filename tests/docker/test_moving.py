"""A daemon changes from its own vfs driver to ours, and back; what it has stays."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.layers import layered_image
from reflayer.driver import Driver
from tests.docker.daemons import REFLAYER, Dockerd, Plugin, folder_for_daemons
from tests.docker.trees import busybox_tree
from tests.driver.layers import tree


def move(data: Path, old: str, new: str) -> None:
    """The three steps of ``docs/docker.md``."""
    (data / old).rename(data / new)
    (data / "image" / old).rename(data / "image" / new)
    for config in data.glob("containers/*/config.v2.json"):
        config.write_text(config.read_text().replace(f'"Driver":"{old}"', f'"Driver":"{new}"'))


def members(path: Path) -> dict[str, bytes]:
    """What a tar has, but for the times, which may be those of its making."""
    with tarfile.open(path) as archive:
        files = ((one, archive.extractfile(one)) for one in archive)
        return {one.name: b"" if file is None else file.read() for one, file in files}


def test_what_vfs_made_works_with_our_driver_and_back(
    place_on: Callable[[str], Path], busybox: Path, tmp_path: Path
) -> None:
    data = place_on("xfs") / "docker"
    with folder_for_daemons() as folder:
        docker, plugin = Dockerd(folder, data), Plugin(folder)
        try:
            docker.start("vfs")
            docker.run("import", busybox, "busybox")
            docker.run("run", "--name=old", "--network=none", "busybox", "touch", "/made-by-vfs")
            docker.stop()
            (layer,) = (path.parent for path in data.glob("vfs/dir/*/made-by-vfs"))
            before = tree(layer)

            move(data, "vfs", "reflayer")
            plugin.start()
            docker.start()
            assert tree(docker.layer("old")) == before
            assert docker.run("diff", "old") == "A /made-by-vfs"
            docker.run("commit", "old", "committed")
            docker.run("run", "--name=new", "--network=none", "committed", "touch", "/made-by-us")
            docker.run("rm", "old")
            (tmp_path / "Dockerfile").write_text("FROM committed\nRUN rm /made-by-vfs")
            docker.run("build", "--network=none", "--tag=built", tmp_path)
            before = tree(docker.layer("new"))
            docker.run("save", "--output", tmp_path / "saved.tar", "built")
            docker.stop()
            plugin.stop()
            assert len(os.listdir(data / "reflayer/differences")) == 3
            Driver(data / "reflayer").make_all_whole()
            assert os.listdir(data / "reflayer/differences") == []

            move(data, "reflayer", "vfs")
            docker.start("vfs")
            assert docker.run("diff", "new") == "A /made-by-us"
            (layer,) = (path.parent for path in data.glob("vfs/dir/*/made-by-us"))
            assert tree(layer) == before
            docker.run("start", "--attach", "new")
            docker.run("rm", "new")
            docker.run("save", "--output", tmp_path / "again.tar", "built")
            assert members(tmp_path / "again.tar") == members(tmp_path / "saved.tar")
            said = ("run", "--rm", "--network=none", "built", "ls", "/made-by-vfs")
            assert "No such file" in docker.try_to(*said).stderr
        finally:
            docker.tear_down()
            plugin.stop()


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_an_image_of_ten_differences_goes_back_to_vfs(
    kind: str, place_on: Callable[[str], Path], tmp_path: Path
) -> None:
    source = busybox_tree(tmp_path / "tree")
    for number in range(22):
        (source / f"folder{number:02}").mkdir()
        for name in ("one", "two", "three"):
            (source / f"folder{number:02}" / name).write_text(name * number)
    archive = layered_image(source, tmp_path / "image")
    data = place_on(kind) / "docker"
    with folder_for_daemons() as folder:
        docker, plugin = Dockerd(folder, data), Plugin(folder)
        try:
            plugin.start()
            docker.start()
            docker.run("load", "--input", archive)
            docker.run("create", "--name=new", "--network=none", "bench:layers", "ls", "/srv")
            changing = ("sh", "-c", "rm -r /srv/application/7; touch /made-by-us")
            docker.run("run", "--name=changed", "--network=none", "bench:layers", *changing)
            said = {*docker.run("diff", "changed").splitlines()}
            before = [tree(docker.layer(name)) for name in ("new", "changed")]
            docker.stop()
            plugin.stop()
            assert len(os.listdir(data / "reflayer/differences")) == 11
            make_whole: list[str | Path] = [REFLAYER, "doctor", "--make-whole", data / "reflayer"]
            subprocess.run(make_whole, check=True, capture_output=True)

            move(data, "reflayer", "vfs")
            docker.start("vfs")
            assert [tree(root_in_vfs(docker, name)) for name in ("new", "changed")] == before
            assert {*docker.run("diff", "changed").splitlines()} == said
            assert docker.run("start", "--attach", "new") == "application"
            run = ("run", "--rm", "--network=none", "bench:layers")
            assert len(docker.run(*run, "ls", "/srv/application").split()) == 60
            docker.run("rm", "new", "changed")
            docker.run("rmi", "bench:layers")
            assert os.listdir(data / "vfs/dir") == []
        finally:
            docker.tear_down()
            plugin.stop()


def root_in_vfs(docker: Dockerd, container: str) -> Path:
    """The root of a container, which the daemon does not tell of its own driver."""
    id = docker.run("inspect", "--format={{.Id}}", container)
    return (
        docker.data
        / "vfs/dir"
        / (docker.data / f"image/vfs/layerdb/mounts/{id}/mount-id").read_text()
    )
