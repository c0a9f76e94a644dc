"""Killed at any moment, the next start finds a clean store."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reflayer import Store
from tests.archive.tars import entry, folder, tar
from tests.cli.processes import PROGRAM
from tests.store.stores import BASE, assert_clean, image, reflayer

_ROUNDS = 10


def _many(name: str) -> bytes:
    """A layer of many small files, which takes a moment to unpack, to clone and to delete."""
    files = [entry(f"{name}-{at % 40}/{at}", b"x" * at) for at in range(1500)]
    return tar(*(folder(f"{name}-{at}") for at in range(40)), *files)


@pytest.fixture(params=["xfs", "ext4"])
def base(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Path:
    """Where blocks are shared, and where they are not."""
    return place_on(request.param)


@pytest.fixture
def made(base: Path) -> str:
    """An image that takes a moment."""
    return image(base / "image", _many("one"), _many("two"))


@pytest.fixture
def small(base: Path) -> str:
    """An image that takes none."""
    return image(base / "small", BASE)


def _killed(root: Path, delay: float, *arguments: str) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "--root", str(root), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(delay)
    process.kill()
    process.wait()


def _lasts(root: Path, *arguments: str) -> float:
    started = time.monotonic()
    done = reflayer(root, *arguments)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started


def _start_again(root: Path, small: str) -> None:
    assert reflayer(root, "create", "--name", "next", small).returncode == 0
    assert reflayer(root, "rm", "next").returncode == 0
    assert_clean(root)


def test_a_killed_create_leaves_nothing(root: Path, made: str, small: str) -> None:
    dice = random.Random(2)
    longest = _lasts(root, "create", "--name", "whole", made)
    assert _lasts(root, "rm", "whole") > 0
    for _ in range(_ROUNDS):
        _lasts(root, "rmi", made) if Store(root).images()[-1].names == (made,) else None
        _killed(root, dice.uniform(0.1, longest), "create", "--name", "whole", made)
        _start_again(root, small)
        for container in Store(root).containers():
            assert container.name == "whole"  # it was faster than we were
            assert sum(1 for _ in Path(container.path).rglob("*")) == 3080
            _lasts(root, "rm", "whole")


def test_a_killed_rm_leaves_nothing(root: Path, made: str, small: str) -> None:
    dice = random.Random(3)
    for turn in range(_ROUNDS):
        _lasts(root, "create", "--name", "whole", made)
        wait = ("--wait",) if turn % 2 else ()
        _killed(root, dice.uniform(0.1, 0.6), "rm", "whole", *wait)
        _start_again(root, small)
        for container in Store(root).containers():
            assert sum(1 for _ in Path(container.path).rglob("*")) == 3080
            _lasts(root, "rm", "whole")


def test_a_killed_rmi_leaves_nothing(root: Path, made: str, small: str) -> None:
    dice = random.Random(4)
    for _ in range(_ROUNDS):
        _lasts(root, "create", "--name", "whole", made)
        _lasts(root, "rm", "whole")
        _killed(root, dice.uniform(0.1, 0.6), "rmi", made)
        _start_again(root, small)
