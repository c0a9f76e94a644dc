"""What the copy's tests share: helpers that are warm and join every copy at once."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflayer.copy import Pool, crew, remove_tree


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """The facts of a deep tree are told with all its folders open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.fixture(scope="module")
def warm_pool() -> Iterator[Pool]:
    """Helper processes that stay from test to test of one file."""
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers are called however small the tree is."""
    monkeypatch.setattr(crew, "_ALONE", -1.0)


@pytest.fixture
def place_on(place_on: Callable[[str], Path]) -> Iterator[Callable[[str], Path]]:
    """The same, but emptied by a program that is quick at any depth."""
    made: list[Path] = []

    def place(kind: str) -> Path:
        made.append(place_on(kind))
        return made[-1]

    yield place
    for folder in made:
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                remove_tree(child)
