"""A layer's archive applied to a layer that is there: whole, on disk, or the layer is no more."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from reflayer.driver import Driver
from reflayer.errors import ArchiveError, LayerError
from tests.driver.layers import fill, leftovers, make, tree, wait_until
from tests.trees import assert_same


def archive(*files: tuple[str, bytes]) -> bytes:
    """A plain tar of those files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_what_a_diff_has_becomes_the_layer_again(place: Path) -> None:
    driver = Driver(place)
    make(driver, "base")
    driver.create("changed", "base")
    root = Path(driver.path("changed"))
    (root / "link").unlink()
    (root / "folder/new").write_bytes(os.urandom(3 << 20))
    driver.create("again", "base")
    with driver.diff("changed", "base") as stream:
        assert driver.apply("again", stream) == 3 << 20
    assert_same(tree(root), tree(driver.path("again")))
    assert leftovers(driver) == []


def test_the_size_is_that_of_all_files_in_the_archive(place: Path) -> None:
    driver = Driver(place)
    driver.create("source")
    root = Path(driver.path("source"))
    fill(root)  # a file of 7,000 bytes that has two names
    with open(root / "holes", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    driver.create("layer")
    with driver.diff("source") as stream:
        assert driver.apply("layer", stream) == 7000 + (1 << 20) + 3


def test_a_damaged_archive_takes_the_layer_with_it(place: Path) -> None:
    driver = Driver(place)
    driver.create("layer")
    damaged = archive(("one", b"1"), ("two", bytes(1 << 20)))[:-200_000]
    with pytest.raises(ArchiveError, match="ends"):
        driver.apply("layer", io.BytesIO(damaged))
    assert driver.list() == []
    assert leftovers(driver) == []
    driver.remove("layer")


def test_what_progress_raises_ends_the_work(place: Path) -> None:
    driver = Driver(place)
    driver.create("layer")

    class EnoughError(Exception):
        pass

    def enough(*_: object) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        driver.apply("layer", io.BytesIO(archive(("one", bytes(1 << 22)))), progress=enough)
    assert driver.list() == []
    assert leftovers(driver) == []


def test_a_layer_that_is_not_there_is_named(place: Path) -> None:
    driver = Driver(place)
    with pytest.raises(LayerError, match="there is no layer nothing"):
        driver.apply("nothing", io.BytesIO(archive()))
    assert leftovers(driver) == []


def test_while_it_is_changed_the_layer_is_not_there(place: Path) -> None:
    driver = Driver(place)
    driver.create("layer")
    reading, writing = os.pipe()
    data = archive(("file", bytes(1 << 16)))
    with open(reading, "rb", buffering=0) as stream, open(writing, "wb", buffering=0) as pipe:
        thread = threading.Thread(target=driver.apply, args=("layer", stream))
        thread.start()
        pipe.write(data[:1024])
        wait_until(lambda: not driver.exists("layer"))
        with pytest.raises(LayerError, match="there is no layer"):
            driver.apply("layer", io.BytesIO(data))
        pipe.write(data[1024:])
        pipe.close()
        thread.join()
    assert os.listdir(driver.path("layer")) == ["file"]


_APPLY = """
import sys
from reflayer.driver import Driver
Driver(sys.argv[1]).apply("layer", sys.stdin.buffer)
"""


@pytest.mark.parametrize("part", [1024, 1_000_000, 3_500_000])
def test_a_process_killed_in_the_middle_leaves_no_layer_that_looks_whole(
    place: Path, part: int
) -> None:
    driver = Driver(place / "home")
    make(driver, "base")
    driver.create("layer", "base")
    data = archive(*((f"file {n}", bytes(1 << 18)) for n in range(16)))
    command = [sys.executable, "-c", _APPLY, driver.home]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(data[:part])
        process.stdin.flush()
        wait_until(lambda: not driver.exists("layer"))
        process.send_signal(signal.SIGKILL)
    again = Driver(driver.home)
    assert again.list() == ["base"]
    wait_until(lambda: leftovers(Driver(driver.home)) == [])
    again.create("layer", "base")
    assert again.apply("layer", io.BytesIO(data)) == 16 << 18
