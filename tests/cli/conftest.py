"""What several tests of commands begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.stores import BASE, image, reflayer


@pytest.fixture
def container(base: Path, root: Path) -> Path:
    """The root of a container that is called ``web``."""
    done = reflayer(root, "create", "--name", "web", image(base / "image", BASE))
    return Path(done.stdout.rstrip("\n"))
