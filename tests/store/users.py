"""An ordinary user, with ranges of ids or without, and the program as he runs it."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

import reflayer
from tests.file_systems import require, require_root
from tests.store.stores import open_to_all

USER, NAME, FIRST, COUNT = 1000, "somebody", 100_000, 65_536
BECOME = f"setpriv --reuid={USER} --regid={USER} --clear-groups --inh-caps=-all"
_WITH_RANGES = (
    'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && '
    'mount --bind "$0.passwd" /etc/passwd && exec ' + BECOME + ' "$@"'
)
PATHS = [str(Path(reflayer.__file__).parents[1]), *site.getsitepackages()]


def _python() -> list[str]:
    """A Python that everybody can start: the one of the tests may be in root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        code = f"import sys; sys.path[:0] = {PATHS!r}; import reflayer.linux.names as names"
        done = subprocess.run([*BECOME.split(), "env", python, "-c", code], capture_output=True)
        if done.returncode == 0:
            return [python]
    pytest.skip("it needs a Python that an ordinary user can start")


class User:
    """An ordinary user's program, on a store of his in ``home``."""

    def __init__(self, base: Path, ranges: bool) -> None:
        require_root()
        require("setpriv", "unshare", "newuidmap", "newgidmap")
        self.home = base / "home"
        self.home.mkdir()
        os.chown(self.home, USER, USER)
        open_to_all(self.home)
        line = f"{USER}:{FIRST}:{COUNT}\n" if ranges else ""
        (base / "ranges").write_text(line)
        # newuidmap(1) wants the user to have a name.
        named = f"{NAME}:x:{USER}:{USER}::{self.home}:/bin/sh\n"
        (base / "ranges.passwd").write_text(named + Path("/etc/passwd").read_text())
        self.become = ["unshare", "-m", "sh", "-c", _WITH_RANGES, str(base / "ranges")]
        self.store = self.home / ".local/share/reflayer"
        self.program = [*_python(), "-m", "reflayer"]

    def start(self, *arguments: str, **more: str) -> list[str]:
        """The command that runs the program so."""
        return [*self.start_other(*self.program, **more), *arguments]

    def start_other(self, *command: str, **more: str) -> list[str]:
        """The command that runs another program so."""
        environment = {"HOME": str(self.home), "PYTHONPATH": ":".join(PATHS), **more}
        words = [f"{name}={value}" for name, value in environment.items()]
        return [*self.become, "env", "-u", "REFLAYER_ROOT", *words, *command]

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.start(*arguments, **more), capture_output=True, text=True, timeout=120, cwd="/"
        )

    def do(self, *arguments: str) -> str:
        """What it prints when all is well."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()
