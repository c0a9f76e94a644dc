"""What several tests of the driver begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflayer.driver import Driver
from tests.driver.layers import make


@pytest.fixture
def driver(place: Path) -> Driver:
    """A driver with a filled layer and its clone, on each file system in turn."""
    driver = Driver(place)
    make(driver, "parent")
    driver.create("clone", "parent")
    return driver
