"""Daemons that run while something is measured, and programs that prepare it."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO

_PATIENCE = 60  # seconds until a daemon answers


def start(daemon: list[str], probe: list[str], state: Path, stack: ExitStack) -> str | None:
    """Start ``daemon`` until ``stack`` ends; why it cannot be, or None when ``probe`` succeeds."""
    with open(state / "log", "wb") as log:
        running = subprocess.Popen(daemon, stdout=log, stderr=log, start_new_session=True)
    stack.callback(_stop, running)
    for _ in range(_PATIENCE * 10):
        if running.poll() is not None:
            lines = (state / "log").read_text(errors="replace").splitlines() or ["it ended"]
            return f"{daemon[0]}: {lines[-1]}"
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return None
        time.sleep(0.1)
    return f"{daemon[0]} does not answer"


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    daemon.wait()


def run(command: list[str], stdin: IO[bytes] | None = None) -> None:
    """Run ``command``, which has to succeed."""
    output(command, stdin)


def output(command: list[str], stdin: IO[bytes] | None = None) -> str:
    """What ``command`` prints; it has to succeed."""
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def fed(tree: Path, command: list[str]) -> str:
    """What ``command`` prints, to which ``tree`` is given as a tar; it has to succeed."""
    with subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE) as tar:
        return output(command, stdin=tar.stdout)
