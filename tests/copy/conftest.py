"""What the copy's tests share: threads that join every copy at once."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflayer.copy import remove_tree
from reflayer.workers import pool


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """The facts of a deep tree are told with all its folders open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are started however small the tree is."""
    monkeypatch.setattr(pool, "_ALONE", -1.0)


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
            if not child.is_symlink() and child.is_dir():
                remove_tree(child)
