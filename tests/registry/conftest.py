"""Registries for these tests, and where their stores are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.registries import Registry, running, with_password
from tests.registry.silly import Silly, serving


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any credentials; nothing of this machine's user is looked at."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    return home


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long before the next try."""
    monkeypatch.setattr("reflayer.images.registry.retry._FIRST", 0.01)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry by plain HTTP that lets everybody in."""
    with running(tmp_path_factory.mktemp("registry")) as one:
        yield one


@pytest.fixture(scope="session")
def shut_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry by plain HTTP that asks for a password."""
    folder = tmp_path_factory.mktemp("shut-registry")
    with running(folder / "run", **with_password(folder)) as one:
        yield one


@pytest.fixture
def silly() -> Iterator[Silly]:
    """A server that does as it is told."""
    with serving(Silly()) as one:
        yield one
