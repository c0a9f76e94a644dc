"""Bars on a terminal, and nothing where there is none."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from tests.archive.tars import entry, tar
from tests.cli.processes import PROGRAM
from tests.store.stores import image


def test_a_terminal_sees_bars_and_standard_output_gets_the_path_alone(base: Path) -> None:
    made = image(base / "image", tar(*(entry(f"{n}", b"x") for n in range(10_000))))
    ours, theirs = os.openpty()
    seen = bytearray()
    reader = threading.Thread(target=_read, args=(ours, seen))
    reader.start()
    done = subprocess.run(
        [*PROGRAM, "--root", str(base / "store"), "create", made],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        check=True,
        timeout=60,
    )
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert "cloning" in bytes(seen).decode()
    assert "10,001 entries" in bytes(seen).decode()
    assert done.stdout.count(b"\n") == 1
    assert done.stdout.startswith(os.fsencode(base))


def _read(terminal: int, seen: bytearray) -> None:
    while True:
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # EIO: nobody has it open any more
            return
