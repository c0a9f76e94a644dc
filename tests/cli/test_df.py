"""``reflayer df`` as people and scripts see it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.processes import PROGRAM, unprivileged
from tests.file_systems import require, require_root
from tests.store.stores import BASE, image, reflayer


@pytest.fixture
def root(base: Path) -> Path:
    made = image(base / "image", BASE)
    for name in ("one", "two"):
        assert reflayer(base / "store", "create", "--name", name, made).returncode == 0
    return base / "store"


def test_it_prints_containers_images_and_a_total(root: Path) -> None:
    done = reflayer(root, "df")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["CONTAINER", "FILES", "SIZE", "SHARED", "OWN", "GIVES", "BACK"]
    assert [line.split()[0] for line in lines[1:3]] == ["two", "one"]
    assert lines[4].split()[0] == "IMAGE"
    assert lines[5].split()[0] == f"oci:{root.parent}/image:latest"
    assert "0B" in lines[5]
    assert "on disk, where du would count" in lines[-1]


def test_json_has_bytes(root: Path) -> None:
    told = json.loads(reflayer(root, "df", "--json").stdout)
    assert [one["name"] for one in told["containers"]] == ["two", "one"]
    (one,) = told["images"]
    assert set(one["containers"]) == {"one", "two"}
    assert one["gives_back"] == 0
    assert one["gives_back_later"] >= one["own"]
    path = Path(told["containers"][0]["path"])
    seen = {os.lstat(name).st_ino: os.lstat(name) for name in (path, *path.rglob("*"))}
    assert told["containers"][0]["inodes"] == len(seen)
    allocated = sum(status.st_blocks * 512 for status in seen.values())
    assert told["containers"][0]["allocated"] == allocated
    assert told["total"]["own"] + told["total"]["shared"] < told["total"]["allocated"] + 50_000


def test_names_choose_lines_and_a_wrong_one_is_one_line(root: Path) -> None:
    lines = reflayer(root, "df", "one").stdout.splitlines()
    assert [line.split()[0] for line in lines if line][1] == "one"
    assert len(lines) == 4
    done = reflayer(root, "df", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "nobody: no such container" in done.stderr


def test_a_terminal_gets_bars(root: Path) -> None:
    require("script")
    command = " ".join([*PROGRAM, "--root", str(root), "df"])
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        capture_output=True,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    assert "░" in done.stdout.decode()
    assert "█ own" in done.stdout.decode().replace("\x1b[0m", "").replace("\x1b[1;36m", "")


def test_it_tells_what_images_share_with_each_other(root: Path) -> None:
    path = Path(reflayer(root, "path", "one").stdout.rstrip("\n"))
    (path / "new").write_bytes(bytes(5000))
    reflayer(root, "commit", "one", "team/new:1")
    lines = reflayer(root, "df").stdout.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("SHARED BY"))
    assert "team/new:1" in lines[at + 1]
    assert f"oci:{root.parent}/image:latest" in lines[at + 1]
    told = json.loads(reflayer(root, "df", "--json").stdout)
    (common,) = told["common"]
    assert len(common["images"]) == 2
    assert 0 < common["size"] <= min(one["shared"] + one["own"] for one in told["images"])


@pytest.mark.parametrize("command", ["ps", "images", "df", "doctor", "checkpoints one", "--help"])
@pytest.mark.parametrize("width", [80, 60])
def test_a_list_fits_the_terminal(root: Path, command: str, width: int) -> None:
    require("script")
    reflayer(
        root, "tag", f"oci:{root.parent}/image:latest", "localhost:5000/a-long-name/of-an-image:1"
    )
    reflayer(
        root,
        "create",
        "--name",
        "a-long-name-" * 5 + "1",
        "localhost:5000/a-long-name/of-an-image:1",
    )
    reflayer(root, "checkpoint", "one", "a-long-name-" * 5 + "1")
    line = f"stty cols {width}; " + " ".join([*PROGRAM, "--root", str(root), command])
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        ["script", "-qec", line, "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "TERM": "xterm", "NO_COLOR": "1"},
    )
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|\r.*\r(?!\n)", "", done.stdout)
    folder = f"Folder:               {root.parent}"  # a path is whole
    shown = [one for one in plain.splitlines() if not one.startswith(folder)]
    assert len(shown) > 1
    assert max(map(len, shown)) <= width
    if command in ("ps", "images"):
        ids = [line.split()[command == "images"] for line in shown[1:]]
        assert all(re.fullmatch("[0-9a-f]{8,12}", one) for one in ids)  # the beginning of one


def test_what_may_not_be_read_is_told(root: Path) -> None:
    require_root()
    told = json.loads(reflayer(root, "df", "--json", "one").stdout)
    path = told["containers"][0]["path"]
    os.chown(f"{path}/etc", 7, 7)
    os.chmod(f"{path}/etc", 0o700)
    done = unprivileged("--root", str(root), "df", "one")
    assert done.returncode == 0
    assert done.stderr == "reflayer: one: 1 files or folders may not be read by this user\n"


def test_a_file_system_that_shares_nothing_has_all_for_its_own(
    place_on: Callable[[str], Path],
) -> None:
    place = place_on("tmpfs")
    made = image(place / "image", BASE)
    assert reflayer(place / "store", "create", "--name", "one", made).returncode == 0
    done = reflayer(place / "store", "df", "--json", "one")
    (one,) = json.loads(done.stdout)["containers"]
    assert (one["shared"], one["untold"]) == (0, 0)
    assert one["own"] == one["allocated"] > 0


def test_nothing_is_told_of_a_store_that_is_not_there(base: Path) -> None:
    done = reflayer(base / "nowhere", "df")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("0B on disk")
    assert not (base / "nowhere").exists()


def test_help_tells_what_the_columns_mean(base: Path) -> None:
    told = reflayer(base, "df", "--help").stdout
    assert told.startswith("usage: reflayer df")
    assert "GIVES BACK" in told
