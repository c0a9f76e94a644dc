"""What is ended by a bundle's record is what that is of, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from reflayer.sandbox.first_process import kill_as_its_user
from reflayer.sandbox.runtimes import Runtime

RUNTIME = Runtime("runc", "runc")


def record(states: Path, pid: int, later: int) -> None:
    """The runtime's of that process, or of one that had its number and started at another time."""
    start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    (states / "one").mkdir(exist_ok=True)
    told = {"init_process_pid": pid, "init_process_start": start + later}
    (states / "one/state.json").write_text(json.dumps(told))


def test_the_process_of_the_record_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as process:
        record(tmp_path, process.pid, 1)
        assert not kill_as_its_user(RUNTIME, str(tmp_path), "/one")
        record(tmp_path, process.pid, 0)
        assert kill_as_its_user(RUNTIME, str(tmp_path), "/one")
        assert process.wait(10) == -9


def test_what_gets_its_number_meanwhile_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.pidfd_open

    def late(pid: int) -> int:
        record(tmp_path, pid, 1)
        return opened(pid)

    monkeypatch.setattr(os, "pidfd_open", late)
    with subprocess.Popen(["sleep", "100"]) as process:
        record(tmp_path, process.pid, 0)
        kill_as_its_user(RUNTIME, str(tmp_path), "/one")
        assert process.poll() is None
        process.kill()
