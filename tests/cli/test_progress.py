"""Bars on a terminal, and nothing where there is none."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from reflayer.cli.progress_bars import _rate
from reflayer.images.content.transfer import Transfer
from reflayer.progress import Stage
from tests.archive.tars import entry, tar
from tests.cli.processes import PROGRAM, reflayer
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


def test_a_copy_says_what_it_did_unless_quiet_is_wanted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for line, told in (
        (["copy"], True),
        (["--quiet", "copy"], False),
        (["copy", "--quiet"], False),
    ):
        done = reflayer(*line, str(source), str(tmp_path / "-".join(line)))
        assert (done.returncode, done.stdout, bool(done.stderr)) == (0, "", told)


def test_who_wants_quiet_sees_nothing_and_gets_the_path(base: Path) -> None:
    made = image(base / "image", tar(*(entry(f"{n}", b"x") for n in range(10_000))))
    for line in (["--quiet", "create", made], ["create", made, "--quiet"]):
        ours, theirs = os.openpty()
        done = subprocess.run(
            [*PROGRAM, "--root", str(base / "store"), *line],
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=True,
        )
        os.close(theirs)
        seen = bytearray()
        _read(ours, seen)
        os.close(ours)
        assert (bytes(seen), done.stdout.count(b"\n")) == (b"", 1)


def test_a_bar_tells_the_rate_the_time_left_and_the_layers_under_way() -> None:
    assert _rate("fetch", 2_000_000, 4_000_000, 10_000_000) == ["2MB/s", "3 s left"]
    assert _rate("unpack", 1000, 0, 90_000) == ["1kB/s", "1:30 min left"]
    assert _rate("clone", 12_345, 10, None) == ["12,345/s"]
    told: list[tuple[str, int, int | None]] = []

    def work(blob: _Blob, tell: Callable[[int], None]) -> None:
        for done in (1, blob.size):
            tell(done)

    blobs = [_Blob(5), _Blob(7)]
    with Transfer("fetch", blobs, work, lambda *one: told.append(one), workers=1).running():
        pass
    layers = [(stage.under_way, stage.layers) for stage, _, _ in told if isinstance(stage, Stage)]
    assert layers == [([1], 2), ([], 2), ([2], 2), ([], 2)]
    assert [done for _, done, _ in told] == [1, 5, 6, 12]


class _Blob(NamedTuple):
    size: int


def _read(terminal: int, seen: bytearray) -> None:
    while True:
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # EIO: nobody has it open any more
            return
