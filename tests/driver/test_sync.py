"""What a long archive brings is written out beside it, and an error of that is not lost."""

from __future__ import annotations

import io
import tarfile
import threading
from pathlib import Path

import pytest

from reflayer.driver import Driver, create, trees, write_back
from reflayer.errors import LayerError, OperationError
from tests.driver.layers import inside, leftovers

_SIZE = 24 << 20


def archive() -> io.BytesIO:
    """A plain tar of three files that are large together."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"file{number}")
            info.size = _SIZE // 3
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    stream.seek(0)
    return stream


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each time that something is written out: whether that is beside the work."""
    by: list[bool] = []

    def write_out(_folder: int, _path: str) -> None:
        by.append(threading.current_thread().name.startswith("write-back"))

    for module in (create, write_back):
        monkeypatch.setattr(module, "write_out", write_out)
    return by


def test_an_archive_is_written_out_beside_and_once_at_the_end(
    place: Path, beside: list[bool]
) -> None:
    driver = Driver(place)
    driver.create("layer")
    beside.clear()
    driver.apply("layer", archive())
    assert beside[0]
    assert beside.count(False) == 1
    assert beside[-1] is False


def test_what_is_built_is_written_out_beside_and_once_at_the_end(
    place: Path, beside: list[bool]
) -> None:
    driver = Driver(place)
    with driver.build("layer") as folder, write_back.writing_back(folder, driver.home) as come_to:
        come_to(_SIZE)
    assert beside == [True, False]


def test_a_difference_is_written_out_before_it_has_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(place, method="stream")
    driver.create("base")
    driver.create_difference("applied", "base")
    written: list[list[str]] = []

    def write_out(_folder: int, _path: str) -> None:
        written.append(inside(driver, "differences", "children/base"))

    monkeypatch.setattr(create, "write_out", write_out)
    with driver.build_difference("built", "base"):
        pass
    driver.apply("applied", archive())
    assert written == [["applied", "applied", "built"], ["built", "applied", "built"]]
    monkeypatch.setattr(trees, "write_out", write_out)
    driver.make_whole("built")
    assert written[-1] == ["applied", "built", "applied", "built"]


def test_an_error_that_is_told_beside_takes_the_layer_with_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_out(_folder: int, path: str) -> None:
        if threading.current_thread().name.startswith("write-back"):
            raise OperationError(path.encode(), "syncfs", "no space left")

    monkeypatch.setattr(write_back, "write_out", write_out)
    driver = Driver(place)
    driver.create("layer")
    with pytest.raises(OperationError, match="no space left"):
        driver.apply("layer", archive())
    with pytest.raises(LayerError):
        driver.path("layer")
    assert leftovers(driver) == []
