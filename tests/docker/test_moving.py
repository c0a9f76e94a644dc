"""A daemon changes from its own vfs driver to ours, and back; what it has stays."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from reflayer.driver import Driver
from tests.docker.daemons import Dockerd, Plugin, folder_for_daemons
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
