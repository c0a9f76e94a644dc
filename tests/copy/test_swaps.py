"""Names that are swapped for links meanwhile lead nowhere: nothing outside is read or changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from reflayer import copy_tree
from reflayer.copy import remove_tree
from reflayer.errors import OperationError
from tests.exchange import exchange
from tests.trees import assert_same, facts

_SECONDS = 1.5
_SECRET = b"a secret that stays outside"

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.fixture
def place(place_on: Callable[[str], Path]) -> Path:
    place = place_on("xfs")
    for folder in range(10):
        (place / f"src/folder/{folder}/inner").mkdir(parents=True)
        for file in range(10):
            (place / f"src/folder/{folder}/file{file}").write_bytes(b"known")
            (place / f"src/folder/{folder}/inner/{file}").write_bytes(b"known")
        (place / f"outside/{folder}/inner").mkdir(parents=True)
        for file in range(10):
            (place / f"outside/{folder}/file{file}").write_bytes(_SECRET)
            (place / f"outside/{folder}/inner/{file}").write_bytes(_SECRET)
    return place


@contextmanager
def _swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names again and again, whenever both are there."""
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                exchange(one, other)
            except OSError:
                time.sleep(0)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("method", ["auto", "tar"])
@pytest.mark.parametrize("swapped", ["folder/5", "folder", "folder/5/inner", "folder/5/file5"])
def test_a_source_that_is_swapped_for_a_link(place: Path, method: str, swapped: str) -> None:
    (place / "link").symlink_to(place / "outside" / swapped.removeprefix("folder").lstrip("/"))
    before = facts(place / "outside")
    done = 0
    with _swapping(place / "src" / swapped, place / "link"):
        until = time.monotonic() + _SECONDS / 2
        while time.monotonic() < until:
            dst = place / f"dst{done}"
            done += 1
            with suppress(OperationError):
                copy_tree(place / "src", dst, method=method, workers=3)
                continue
            assert not dst.exists()

    for dst in place.glob("dst*"):
        for path in dst.glob("**/*"):
            assert path.is_symlink() or path.is_dir() or path.read_bytes() == b"known"
    assert_same(before, facts(place / "outside"))
    assert done > 0


@pytest.mark.parametrize("method", ["auto", "stream", "tar"])
def test_a_destination_that_is_swapped_for_a_link(place: Path, method: str) -> None:
    (place / "empty").mkdir(mode=0o751)
    (place / "link").symlink_to(place / "empty")
    before = facts(place / "empty")
    for name in ("dst/folder/5", "dst/folder", "dst/folder/5/inner"):
        done = 0
        with _swapping(place / name, place / "link"):
            until = time.monotonic() + _SECONDS / 3
            while time.monotonic() < until:
                with suppress(OperationError):
                    copy_tree(place / "src", place / "dst", method=method, workers=3)
                with suppress(OperationError):
                    remove_tree(place / "dst")
                done += 1
        remove_tree(place / "dst")
        assert_same(before, facts(place / "empty"))
        assert done > 0
        if not (place / "link").is_symlink():  # the swap was the last thing that happened
            remove_tree(place / "link")
            (place / "link").symlink_to(place / "empty")


def test_a_file_that_becomes_a_fifo_does_not_hold_the_copy(place: Path) -> None:
    os.mkfifo(place / "fifo")
    with _swapping(place / "src/folder/5/file5", place / "fifo"):
        until = time.monotonic() + _SECONDS / 2
        while time.monotonic() < until:
            with suppress(OperationError):
                copy_tree(place / "src", place / "dst", workers=3)
            remove_tree(place / "dst")
