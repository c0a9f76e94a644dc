"""The service for tests: one process for all tests of a file, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.containerd.served import Served, served


@pytest.fixture
def socket() -> Iterator[Path]:
    """A path for a socket: not below pytest's folder, since it has to be short (unix(7))."""
    with TemporaryDirectory(prefix="snapshots-") as folder:
        yield Path(folder) / "socket"


@pytest.fixture
def service(place_on: Callable[[str], Path], socket: Path) -> Iterator[Served]:
    """The service, with its home on XFS."""
    with served(place_on("xfs") / "home", socket) as service:
        yield service


@pytest.fixture
def service_anywhere(place: Path, socket: Path) -> Iterator[Served]:
    """The service, with its home on each file system in turn."""
    with served(place / "home", socket) as service:
        yield service


@pytest.fixture(scope="module")
def lasting_service(
    file_system: Callable[[str], Path], request: pytest.FixtureRequest
) -> Iterator[Served]:
    """One service for all tests of a file, with the file's ``OPTIONS``, its home on XFS."""
    options = getattr(request.module, "OPTIONS", ())
    with (
        TemporaryDirectory(prefix="home-", dir=file_system("xfs")) as place,
        TemporaryDirectory(prefix="snapshots-") as folder,
        served(Path(place) / "home", Path(folder) / "socket", *options) as service,
    ):
        yield service
