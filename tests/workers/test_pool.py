"""How many workers there may be."""

from __future__ import annotations

import os
import subprocess
import time

from reflayer.workers.pool import is_crowded


def test_it_is_crowded_while_much_more_runs_than_there_are_processors() -> None:
    loop = ["sh", "-c", "while :; do :; done"]
    busy = [subprocess.Popen(loop) for _ in range(3 * (os.cpu_count() or 1) + 1)]
    try:
        end = time.monotonic() + 60
        while not is_crowded() and time.monotonic() < end:
            time.sleep(0.01)
        assert is_crowded()
        for process in busy:
            process.kill()
            process.wait()
        while is_crowded() and time.monotonic() < end:
            time.sleep(0.01)
        assert not is_crowded()
    finally:
        for process in busy:
            process.kill()
            process.wait()
