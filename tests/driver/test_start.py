"""A program that opens a home, or removes a layer from it, is not kept waiting by imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from reflayer.driver import Driver
from tests.driver.layers import leftovers, make, wait_until
from tests.file_systems import require

_HEAVY = (
    "asyncio ctypes dataclasses importlib.metadata logging re socket subprocess tempfile typing"
)
_REMOVE = """
import sys
sys.path.insert(0, sys.argv[1])
from reflayer.driver import Driver
driver = Driver(sys.argv[2])
driver.remove(driver.list()[0], wait=False)
print(*sys.modules)
"""


def test_opening_a_home_and_removing_import_nothing_heavy(place: Path) -> None:
    driver = Driver(place / "home")
    make(driver, "base")
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-I", "-S", "-c", _REMOVE, source, driver.home]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert "reflayer.driver" in modules
    assert modules.isdisjoint(_HEAVY.split())
    assert not {name for name in modules if name.startswith("reflayer.copy")}
    assert driver.list() == []
    wait_until(lambda: leftovers(driver) == [])


def test_opening_a_home_looks_at_no_layer(place: Path) -> None:
    require("strace")
    driver = Driver(place / "home")
    make(driver, "base")
    code = "import sys; from reflayer.driver import Driver; Driver(sys.argv[1])"
    command = [
        "strace", "-f", "-e", "trace=openat,openat2,getdents64", "-y",
        sys.executable, "-I", "-c", code, driver.home,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{driver.home}/tmp" in done.stderr
    assert f"{driver.home}/dir" not in done.stderr
