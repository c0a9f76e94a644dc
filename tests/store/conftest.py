"""Where the tests of the store have theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def base(place_on: Callable[[str], Path]) -> Path:
    """A new folder on XFS."""
    return place_on("xfs")


@pytest.fixture
def root(base: Path) -> Path:
    """Where a store is to be."""
    return base / "store"
