"""The program as a process: what it ends with and prints."""

from __future__ import annotations

import subprocess
import sys

from tests.file_systems import require

PROGRAM = (sys.executable, "-m", "reflayer")


def reflayer(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return _run(*PROGRAM, *arguments)


def unprivileged(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it without any capability, as if not by root."""
    require("setpriv")
    return _run("setpriv", "--inh-caps=-all", "--bounding-set=-all", *PROGRAM, *arguments)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
