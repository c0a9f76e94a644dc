"""Containers run on our snapshots, and what they changed becomes an image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflayer.driver.spares import all_spares
from reflayer.workers.lock import locked
from tests.containerd_programs.conftest import Pair
from tests.containerd_programs.containerd import until
from tests.containerd_programs.images import NAME, archive, busybox, chain_id, layers
from tests.images.layouts import LAYER

IMPORT = ("images", "import", "--base-name", NAME)
IMAGE = f"{NAME}:t"
FOREVER = ("sleep", "1000000")


@pytest.fixture
def image(pair: Pair, tmp_path: Path) -> tuple[bytes, ...]:
    """The layers of the image ``IMAGE``, imported on each file system."""
    return imported(pair, tmp_path)


@pytest.fixture
def xfs_image(xfs_pair: Pair, tmp_path: Path) -> tuple[bytes, ...]:
    """The same on XFS alone."""
    return imported(xfs_pair, tmp_path)


def imported(pair: Pair, tmp_path: Path) -> tuple[bytes, ...]:
    """Import the image."""
    plain = (busybox(), *layers())
    pair.containerd.ctr(*IMPORT, archive(tmp_path / "image", "t", *plain))
    return plain


@pytest.mark.usefixtures("image")
def test_a_container_sees_the_image_and_writes_to_a_clone_of_its_own(pair: Pair) -> None:
    change = "cat /kept/file; echo changed > /kept/file; cat /kept/file; rm /white/stays"
    assert pair.containerd.run(IMAGE, "c1", "sh", "-c", change, options=("--rm",)) == (
        "firstchanged\n"
    )
    assert pair.containerd.run(
        IMAGE, "c2", "sh", "-c", "cat /kept/file /white/stays", options=("--rm",)
    ) == ("firstreplaced")


@pytest.mark.usefixtures("xfs_image")
def test_a_container_that_is_removed_leaves_no_snapshot(xfs_pair: Pair) -> None:
    before = xfs_pair.containerd.snapshots()
    xfs_pair.containerd.run(IMAGE, "c", "true")
    assert xfs_pair.containerd.snapshots()["c"][0] == "Active"
    xfs_pair.containerd.ctr("containers", "rm", "c")
    until(lambda: xfs_pair.containerd.snapshots() == before, "the snapshot is gone")


@pytest.mark.usefixtures("xfs_image")
def test_a_container_after_the_first_is_one_that_was_made_ahead(xfs_pair: Pair) -> None:
    home = str(xfs_pair.home)

    def ready() -> set[int]:
        return {os.stat(path).st_ino for one in all_spares(home) for path in one.paths}

    xfs_pair.containerd.run(IMAGE, "first", "true")
    until(lambda: len(ready()) == 1, "a spare is there")
    with locked(f"{home}/spares.lock"):
        there = ready()
        xfs_pair.containerd.run(IMAGE, "second", "sh", "-c", "cat /kept/file >/written")
    mount = xfs_pair.containerd.ctr("snapshots", "mounts", "/target", "second")
    folder = next(word for word in mount.split() if word.startswith(home))
    assert {os.stat(folder).st_ino} == there
    assert Path(folder, "written").read_text() == "first"


def test_what_a_container_changed_becomes_a_layer_of_a_new_image(
    xfs_pair: Pair, xfs_image: tuple[bytes, ...], tmp_path: Path
) -> None:
    change = "echo more > /kept/more; rm -r /deep; mv /kept/other /moved; chmod 711 /white"
    xfs_pair.containerd.run(IMAGE, "c", "sh", "-c", change)
    layer = xfs_pair.containerd.output("snapshots", "diff", f"--media-type={LAYER}", "c")

    made = (*xfs_image, layer)
    xfs_pair.containerd.ctr(*IMPORT, archive(tmp_path / "new", "new", *made))
    show = "cat /kept/more /moved; ls -d /deep 2>/dev/null; stat -c %a /white; ls /kept"
    assert xfs_pair.containerd.run(
        f"{NAME}:new", "c2", "sh", "-c", show + "; true", options=("--rm",)
    ) == ("more\nfirst711\nfile\nlink\nmore\nnull\npipe\nsymlink\n")


@pytest.mark.usefixtures("xfs_image")
def test_a_containers_snapshot_is_committed_and_others_start_from_it(xfs_pair: Pair) -> None:
    xfs_pair.containerd.run(IMAGE, "c", "sh", "-c", "echo more > /kept/more")
    xfs_pair.containerd.ctr("snapshots", "commit", "committed", "c")
    assert xfs_pair.containerd.snapshots()["committed"][0] == "Committed"
    assert "c" not in xfs_pair.containerd.snapshots()
    xfs_pair.containerd.ctr("snapshots", "prepare", "next", "committed")
    path, _ = xfs_pair.containerd.mount("next")
    assert (path / "kept/more").read_text() == "more\n"


@pytest.mark.usefixtures("xfs_image")
def test_a_container_may_have_a_root_that_is_read_only(xfs_pair: Pair) -> None:
    told = xfs_pair.containerd.run(
        IMAGE, "c", "sh", "-c", "exec 2>&1; echo x > /kept/file; cat /kept/file",
        options=("--rm", "--read-only"),
    )  # fmt: skip
    assert "Read-only file system" in told
    assert told.endswith("first")


@pytest.mark.usefixtures("xfs_image")
def test_a_container_outlives_a_restart_of_containerd(xfs_pair: Pair) -> None:
    both = xfs_pair
    both.containerd.run(IMAGE, "c", *FOREVER, options=("--detach",))
    before = both.containerd.snapshots()

    both.containerd.stop()
    both.containerd.start()

    assert both.containerd.snapshots() == before
    assert inside(both, "c", "cat", "/kept/file") == "first"
    assert both.containerd.run(IMAGE, "d", "cat", "/kept/file", options=("--rm",)) == "first"


@pytest.mark.usefixtures("xfs_image")
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_container_outlives_a_restart_of_ours_under_a_live_containerd(
    end: str, xfs_pair: Pair
) -> None:
    both = xfs_pair
    both.containerd.run(IMAGE, "c", *FOREVER, options=("--detach",))
    before = both.containerd.snapshots()

    getattr(both.reflayer, end)()
    assert inside(both, "c", "sh", "-c", "echo while > /kept/while; cat /kept/while") == "while\n"
    assert both.containerd.try_ctr("snapshots", "prepare", "x", "").returncode != 0
    both.reflayer.start()

    def reached() -> bool:  # containerd dials again after three seconds at most
        return both.containerd.try_ctr("snapshots", "ls").returncode == 0

    until(reached, "containerd is connected again")
    assert both.containerd.snapshots() == before
    assert inside(both, "c", "cat", "/kept/while") == "while\n"
    assert both.containerd.run(IMAGE, "d", "cat", "/kept/file", options=("--rm",)) == "first"
    both.containerd.ctr("tasks", "rm", "--force", "c")
    both.containerd.ctr("containers", "rm", "c")
    until(lambda: "c" not in both.containerd.snapshots(), "the snapshot is gone")


def inside(pair: Pair, container: str, *command: str) -> str:
    """What ``command`` prints in a container that runs."""
    return pair.containerd.ctr("tasks", "exec", "--exec-id", "x", container, *command)


def test_the_layers_of_an_image_stay_as_they_are_under_its_containers(
    xfs_pair: Pair, xfs_image: tuple[bytes, ...]
) -> None:
    top = chain_id(*xfs_image)
    for name in ("c1", "c2"):
        command = "echo $0 >> /kept/file; cat /kept/file; rm -r /white /opaque"
        told = xfs_pair.containerd.run(IMAGE, name, "sh", "-c", command, name)
        assert told == f"first{name}\n"
    xfs_pair.containerd.collect()
    xfs_pair.containerd.ctr("snapshots", "view", "view", top)
    path, _ = xfs_pair.containerd.mount("view")
    assert (path / "kept/file").read_bytes() == b"first"
    assert (path / "white/stays").exists()
