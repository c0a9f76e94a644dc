"""Files that appear when they are complete: whatever happens before, nothing is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from reflayer.images.content.temp_file import replacement

WRITING = """
import sys, time
from reflayer.images.content.temp_file import replacement
with replacement(sys.argv[1]) as out:
    out.write(bytes(4 << 20))
    out.flush()
    print("written", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the file is made: also as where the file system knows none without a name."""
    if request.param == "named":
        monkeypatch.setattr("reflayer.images.content.temp_file._OPEN_FILES", "/proc/none")
    return str(request.param)


def test_who_is_killed_leaves_nothing(place: Path) -> None:
    for old in (None, b"old"):
        if old is not None:
            (place / "file").write_bytes(old)
        command = [sys.executable, "-c", WRITING, str(place / "file")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"written\n"
            process.kill()
        assert os.listdir(place) == ([] if old is None else ["file"])
        assert old is None or (place / "file").read_bytes() == old


@pytest.mark.usefixtures("way")
def test_it_is_there_when_it_is_complete_and_takes_the_place_of_what_was(place: Path) -> None:
    for content in (b"first", b"second"):
        before = [one.read_bytes() for one in place.iterdir()]
        with replacement(str(place / "file")) as out:
            out.write(content)
            assert [p.read_bytes() for p in place.iterdir() if p.name == "file"] == before
        assert os.listdir(place) == ["file"]
        assert (place / "file").read_bytes() == content


@pytest.mark.usefixtures("way")
def test_a_failure_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyError), replacement(str(tmp_path / "file")) as out:
        give_up(out)
    with pytest.raises(KeyError), replacement(str(tmp_path / "other")) as out:
        give_up(out)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def give_up(out: BinaryIO) -> None:
    """Write something, but not all."""
    out.write(b"new")
    raise KeyError


@pytest.mark.usefixtures("way")
def test_what_cannot_be_replaced_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError), replacement(str(tmp_path / "folder")) as out:
        out.write(b"new")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.usefixtures("way")
def test_the_umask_counts_and_a_link_is_followed(tmp_path: Path) -> None:
    name = "n" * 255  # no room for more
    (tmp_path / "link").symlink_to(f"folder/{name}")
    (tmp_path / "folder").mkdir()
    before = os.umask(0o027)
    try:
        with replacement(str(tmp_path / "link")) as out:
            out.write(b"new")
        with replacement(str(tmp_path / "link")) as out:
            out.write(b"newer")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    (there,) = (tmp_path / "folder").iterdir()
    assert there.name == name
    assert (there.read_bytes(), there.stat().st_mode & 0o777) == (b"newer", 0o640)
