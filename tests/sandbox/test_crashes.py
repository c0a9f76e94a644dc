"""What runs ends with the process that runs it, or with the next one."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

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
