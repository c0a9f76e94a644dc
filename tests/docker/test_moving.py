"""A daemon changes from its own vfs driver to ours, and back; what it has stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.docker.daemons import Dockerd, Plugin, folder_for_daemons
from tests.driver.layers import tree


def move(data: Path, old: str, new: str) -> None:
    """The three steps of ``docs/docker.md``."""
    (data / old).rename(data / new)
    (data / "image" / old).rename(data / "image" / new)
    for config in data.glob("containers/*/config.v2.json"):
        config.write_text(config.read_text().replace(f'"Driver":"{old}"', f'"Driver":"{new}"'))


def test_what_vfs_made_works_with_our_driver_and_back(
    place_on: Callable[[str], Path], busybox: Path
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
            docker.run("ps", "--all", "--size")
            docker.stop()

            move(data, "reflayer", "vfs")
            docker.start("vfs")
            changed = docker.run("diff", "new").splitlines()
            assert changed == ["A /made-by-us"]
            docker.run("start", "--attach", "new")
            docker.run("rm", "new")
        finally:
            docker.tear_down()
            plugin.stop()
