"""``reflayer doctor`` tells the truth about a folder, and leaves it as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.processes import reflayer, unprivileged
from tests.file_systems import require, require_native, require_root
from tests.sandbox.images import in_one_version


@pytest.mark.parametrize(
    ("kind", "works", "advice"),
    [
        ("xfs", ["reflink", "range", "stream"], ""),
        ("btrfs", ["snapshot", "reflink", "range", "stream"], ""),
        ("ext4", ["range", "stream"], "copies all data here"),
        ("tmpfs", ["range", "stream"], "is in memory"),
    ],
)
def test_it_finds_what_works(
    place_on: Callable[[str], Path], kind: str, works: list[str], advice: str
) -> None:
    require_root()
    place = place_on(kind)
    done = reflayer("doctor", "--json", str(place))
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["folder"] == str(place)
    assert told["file_system"] == kind
    assert [name for name, why in told["methods"].items() if not why] == works
    assert told["method"] == works[0]
    assert told["shares_blocks"] is (works[0] in ("snapshot", "reflink"))
    assert not told["metadata"]["owners"]
    assert advice in " ".join(told["advice"])
    assert bool(told["advice"]) == bool(advice)
    assert os.listdir(place) == []


def test_an_xfs_without_shared_blocks_is_to_be_made_anew(tmp_path: Path) -> None:
    require_root()
    require("mkfs.xfs", "mount")
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=0", str(disk)], check=True)
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(disk), str(place)], check=True)
    try:
        done = reflayer("doctor", str(place))
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert "mkfs.xfs -m reflink=1" in done.stdout


def test_it_tells_what_is_lost_without_root(place_on: Callable[[str], Path]) -> None:
    place = place_on("xfs")
    done = unprivileged("doctor", "--json", str(place))
    told = json.loads(done.stdout)
    lost = [what for what, why in told["metadata"].items() if why]
    assert lost == ["owners", "devices", "trusted attributes"]
    *_, recorded, runs = told["advice"]
    assert "they are recorded in attributes beside" in recorded
    assert runs.startswith("reflayer run runs nothing: no process may have namespaces")
    assert told["owners"] == "all that root without some of its capabilities may set"
    assert os.listdir(place) == []


def test_a_folder_that_cannot_be_tried_is_one_line(place_on: Callable[[str], Path]) -> None:
    place = place_on("xfs")
    place.chmod(0o555)
    done = unprivileged("doctor", str(place))
    assert done.returncode == 1
    assert done.stderr == (
        f"reflayer: {place}: try it: Permission denied: it takes a new folder in there: name one "
        "that you may write in\n"
    )


def test_without_a_folder_it_looks_where_the_store_is_or_would_be(
    place_on: Callable[[str], Path],
) -> None:
    place = place_on("ext4")
    done = reflayer("--root", f"{place}/not/yet", "doctor")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["Folder:", str(place)]
    assert os.listdir(place) == []


@pytest.mark.parametrize("pure", [False, True])
def test_it_tells_whether_the_part_in_c_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pure: bool
) -> None:
    require_native()
    monkeypatch.setenv("REFLAYER_PURE", "1" if pure else "0")
    done = reflayer("doctor", str(tmp_path))
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Part in C:"))
    told = line.partition(":")[2].strip()
    assert told == ("not in use: REFLAYER_PURE=1" if pure else "in use")


def test_what_is_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    assert reflayer("doctor", str(tmp_path / "nowhere")).returncode == 2


def test_it_tells_why_better_runtimes_are_passed_over(tmp_path: Path) -> None:
    require_root()
    require("crun", "mount")
    words = [sys.executable, "-m", "reflayer", "doctor", str(tmp_path)]
    for command in (words, in_one_version(*words)):
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        told = json.loads(subprocess.check_output([*command, "--json"]))
        assert all(
            f"{name}:" in shown and why in shown for name, why in told["passed_over"].items()
        )
        if command == words and os.path.ismount("/sys/fs/cgroup/unified"):
            assert "versions 1 and 2" in told["passed_over"]["crun"]
            assert not told["runtime"].endswith("crun")
        else:
            assert "crun" not in told["passed_over"] or "cgroup" in told["passed_over"]["crun"]
