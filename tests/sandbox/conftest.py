"""A store with an image that runs, and each runtime in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.file_systems import require_root
from tests.sandbox.images import RUNTIMES, image, reflayer, require_runtime


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each in turn."""
    require_root()
    require_runtime(request.param)
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def source(base: Path) -> str:
    """An image that root runs."""
    return image(base / "image", Cmd=["sh", "-c", "echo by default"])


@pytest.fixture
def run(root: Path, runtime: str) -> Callable[..., CompletedProcess[str]]:
    """``reflayer run --rm`` by that runtime."""
    return partial(reflayer, root, "run", "--rm", "--runtime", runtime)
