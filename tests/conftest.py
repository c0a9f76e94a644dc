"""What tests of all rooms share: file systems, mounted once a session, and places on them."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from reflayer.walk.holders import _FIRST_NAMESPACE
from tests.file_systems import kinds, miss, mounted, require_root, users_folders

# What gRPC does before a fork(2) may wait for its own threads without an end.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A busy machine is no failure: no example has to be made or tested in a given time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Who runs the tests behind a shell or nohup ignores these, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_numbers = itertools.count()
_OF_USERS = {"benchmarks", "cli", "images", "registry", "store"}
"""The folders of tests that an ordinary user passes as well."""
_ours = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """All temporary files go into one folder, so that none is left, whoever made it."""
    if config.option.basetemp is None:
        # No "_" as mkdtemp has it: buildah takes its path for a part of an image's name.
        folder = Path(tempfile.gettempdir()) / f"reflayer-{os.urandom(5).hex()}"
        folder.mkdir(mode=0o700)
        folder.chmod(0o755)  # some tests have files for others in it
        config.stash[_ours] = folder
        config.option.basetemp = str(folder / "pytest")
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete it unless something is mounted there; not by pytest, which fails at deep trees."""
    folder = config.stash.get(_ours, None)
    if folder is not None and f" {folder}/" not in Path("/proc/self/mountinfo").read_text():
        _delete(folder)


@pytest.fixture(scope="session")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """``file_system("xfs")`` is where that file system is mounted, for the whole session.

    For an ordinary user it is a folder on one that is there.
    """
    places: dict[str, Path] = {}
    with ExitStack() as stack:

        def place(kind: str) -> Path:
            if kind not in places and os.geteuid() != 0 and kind in users_folders():
                own = tempfile.mkdtemp(prefix="reflayer-", dir=users_folders()[kind])
                stack.callback(_delete, places.setdefault(kind, Path(own)))
            elif kind not in places:
                folder = tmp_path_factory.mktemp(f"mount-{kind}")
                for above in (folder, folder.parent):
                    above.chmod(0o711)  # what is on it may be for others
                places[kind] = stack.enter_context(mounted(kind, folder))
            return places[kind]

        yield place


@pytest.fixture
def place_on(
    request: pytest.FixtureRequest, file_system: Callable[[str], Path]
) -> Iterator[Callable[[str], Path]]:
    """``place_on("xfs")`` is a new empty folder there, deleted after the test."""
    made: list[Path] = []

    def place(kind: str) -> Path:
        if request.path.parent.name not in _OF_USERS:
            require_root()  # devices and owners are in all that is done there
        folder = file_system(kind) / f"test-{next(_numbers)}"
        folder.mkdir(mode=0o755)
        made.append(folder)
        return folder

    yield place
    for folder in made:
        _delete(folder)


@pytest.fixture(params=kinds())
def place(request: pytest.FixtureRequest, place_on: Callable[[str], Path]) -> Path:
    """A new empty folder on each file system in turn."""
    return place_on(request.param)


@pytest.fixture
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no test that runs elsewhere, and is ``alone``, change what all processes show.

    Where not all of them are seen, as in most containers, the test is skipped.
    """
    if os.readlink("/proc/self/ns/pid") != _FIRST_NAMESPACE:
        miss("it needs to see all processes of the machine")
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX if "alone" in request.fixturenames else fcntl.LOCK_SH)
        yield


@pytest.fixture
def alone(undisturbed: None) -> None:
    """Let no test be ``undisturbed`` meanwhile but this one."""


def _delete(folder: Path) -> None:
    # rm(1) copes with any depth; rmtree of Python 3.11 does not.
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "-f", "u+rwX", folder], check=False)
    if shutil.which("chattr"):
        subprocess.run(["chattr", "-R", "-f", "-i", folder], check=False)
    subprocess.run(["rm", "-rf", folder], check=False)


@pytest.fixture
def base(place_on: Callable[[str], Path]) -> Path:
    """A new folder on XFS, or what an ordinary user has."""
    return place_on(kinds()[0])


@pytest.fixture
def root(base: Path) -> Path:
    """Where a store is to be."""
    return base / "store"
