"""Packages: a wheel is the same bytes each time, with the manual and a bill of materials in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reflayer import __version__
from reflayer.cli.manual import files
from tests.file_systems import require

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """Two of the same, made in different folders, with different masks and times."""
    require("gcc")
    made: list[Path] = []
    for name, mask in (("one", 0o022), ("another/below", 0o077)):
        folder = tmp_path / name
        left_out = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
        shutil.copytree(PROJECT / "src", folder / "src", ignore=left_out)
        for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy(PROJECT / file, folder)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "--no-build-isolation",
                "--no-deps",
                "-wdist",
                ".",
            ],
            cwd=folder,
            env=environment,
            umask=mask,
            capture_output=True,
            check=True,
        )
        made += folder.glob("dist/*.whl")
    return made


def test_a_wheel_is_the_same_bytes_each_time_and_tells_what_is_in_it(wheels: list[Path]) -> None:
    one, another = wheels
    assert one.name == another.name
    assert one.read_bytes() == another.read_bytes()
    with zipfile.ZipFile(one) as wheel:
        names = wheel.namelist()
        shared = {name.partition(".data/data/share/")[2] for name in names}
        assert shared - {""} == files().keys()
        (bill,) = [name for name in names if ".dist-info/sboms/" in name]
        said = json.loads(wheel.read(bill))
        entries = {item.external_attr >> 16 & 0o777 for item in wheel.infolist()[:-1]}  # but RECORD
    assert said["bomFormat"] == "CycloneDX"
    libraries = {one["name"] for one in said["components"] if one["type"] == "library"}
    assert libraries >= {"urllib3", "rich", "aiohttp", "backports.zstd"}
    assert [one["name"] for one in said["components"] if one["type"] == "file"] == [
        "reflayer/linux/_names.abi3.so"
    ]
    assert entries <= {0o644, 0o755}


def test_to_make_one_leaves_nothing_beside_the_package(wheels: list[Path]) -> None:
    """An ``egg-info`` there would be a second installation to all that look for plugins."""
    assert os.listdir(wheels[0].parents[1] / "src") == ["reflayer"]


def test_the_debian_package_has_the_version_of_the_project() -> None:
    changelog = (PROJECT / "packaging/debian/changelog").read_text()
    assert changelog.startswith(f"reflayer ({__version__}) ")
