"""What runs ends with the process that runs it, or with the next one."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from tests.file_systems import require_root
from tests.sandbox.images import command, nothing_runs, reflayer


def test_what_a_killed_process_left_goes_with_the_next(
    runtime: str, source: str, root: Path, base: Path
) -> None:
    (base / "seen").mkdir()
    script = "while :; do echo >>/seen/alive; sleep 0.05; done"
    volume = ("-v", f"{base}/seen:/seen")
    words = ("run", "--rm", "--runtime", runtime, *volume, source, "sh", "-c", script)
    with subprocess.Popen(command(root, *words)) as process:
        alive = base / "seen/alive"
        while not alive.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert not nothing_runs(root)
    done = reflayer(root, "prune")
    assert done.returncode == 0, done.stderr
    assert nothing_runs(root)
    assert reflayer(root, "ps", "-q").stdout == ""
    size = alive.stat().st_size
    time.sleep(0.3)
    assert alive.stat().st_size == size


def test_root_starts_nothing_that_a_users_store_names(source: str, root: Path, base: Path) -> None:
    require_root()
    reflayer(root, "create", "--name", "one", source)
    program, started = base / "program", base / "started"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    running = root / "running"
    (running / "left").mkdir(parents=True)
    (running / ".state/left").mkdir(parents=True)
    (running / "left.lock").touch()
    state = {"runtime": "runc", "program": str(program), "path": str(root), "made": []}
    (running / "left/state.json").write_text(json.dumps(state))
    os.chown(running, 1000, 1000)
    for words in (("prune",), ("checkpoint", "one"), ("rollback", "one")):
        done = reflayer(root, *words)
        assert done.returncode == 0, done.stderr
    assert not started.exists()
    os.chown(running, 0, 0)
    assert reflayer(root, "prune").returncode == 0
    assert started.exists()
    assert not (running / "left").exists()
