"""The fixture ``fresh_root`` gives each test a root of its own, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from reflayer import Store
from tests.file_systems import require_module, require_root
from tests.sandbox.images import image, in_one_version, nothing_runs
from tests.store.users import User

_PLUGIN = "reflayer.sandbox.pytest_plugin"
_TESTS = """
import os, pytest
from pathlib import Path

@pytest.mark.parametrize("number", range(6))
def test_fresh(fresh_root, number):
    assert not Path(fresh_root, "mark").exists()
    Path(fresh_root, "mark").write_text("")
    done = fresh_root.run(["ls", "/mark"])
    assert done.stdout == "/mark\\n"

def test_failing(fresh_root):
    assert os.path.isdir(fresh_root) and False
"""


def _pytest(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    told = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=200, env=told
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_each_test_has_a_fresh_root(base: Path, root: Path, workers: tuple[str, ...]) -> None:
    require_root()
    require_module("xdist")
    source = image(base / "image")
    store = Store(root)
    store.pull(source)
    store.warm(source, 1)
    project = base / "project"
    project.mkdir()
    (project / "pytest.ini").write_text(
        f"[pytest]\nreflayer_image = {source}\nreflayer_root = {root}\n"
    )
    (project / "test_it.py").write_text(_TESTS)
    plugin = () if _is_installed() else ("-p", _PLUGIN)
    done = _pytest(project, *plugin, *workers)
    assert "6 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert store.containers() == []
    assert nothing_runs(root)


def test_an_ordinary_user_has_one_as_the_images_user(base: Path) -> None:
    user = User(base, ranges=True)
    source = image(base / "image", User="web")
    project = user.home / "project"
    project.mkdir()
    (project / "pytest.ini").write_text(f"[pytest]\nreflayer_image = {source}\n")
    (project / "test_it.py").write_text(
        "def test_it(fresh_root):\n    assert fresh_root.run(['id', '-u']).stdout == '101\\n'\n"
    )
    plugin = () if _is_installed() else ("-p", _PLUGIN)
    words = (user.program[0], "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin)
    done = subprocess.run(
        in_one_version(*user.start_other(*words)), cwd=project, capture_output=True, text=True
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert nothing_runs(user.store)


def test_without_an_image_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(_TESTS)
    plugin = () if _is_installed() else ("-p", _PLUGIN)
    done = _pytest(tmp_path, *plugin)
    assert "names no reflayer_image" in done.stdout


def test_it_is_an_entry_point_that_imports_nothing() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    points = tomllib.loads(text)["project"]["entry-points"]["pytest11"]
    assert points == {"reflayer": _PLUGIN}
    assert hasattr(import_module(_PLUGIN), "fresh_root")
    code = (
        f"import sys, pytest; before = set(sys.modules); import {_PLUGIN};"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {"reflayer", "reflayer.lazy", "reflayer.sandbox", _PLUGIN}
    assert set(done.stdout.split()) <= ours


def test_what_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    root = f"reflayer_image = oci:/no/such:x\nreflayer_root = {tmp_path}/root\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{root}")
    (tmp_path / "test_it.py").write_text("def test_fresh(fresh_root):\n    pass\n")
    done = _pytest(tmp_path, *(() if _is_installed() else ("-p", _PLUGIN)))
    assert "\nfresh_root: /no/such" in done.stdout, done.stdout
    assert "raise " not in done.stdout


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(one.value == _PLUGIN for one in entry_points(group="pytest11"))
