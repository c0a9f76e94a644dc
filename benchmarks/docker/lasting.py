"""Does the plugin grow? Memory and open descriptors after 20 and after 200 creates and removes."""

from __future__ import annotations

import argparse
import os
import re
from contextlib import ExitStack
from pathlib import Path

from benchmarks.docker.engine import Engine
from benchmarks.places import tree
from benchmarks.processes import run
from benchmarks.question import Setting
from reflayer.bench.methods import scratch
from reflayer.cli.interrupt import catch_signals

_FIRST, _ALL = 20, 200


def main() -> None:
    """Measure in the folder of the command line, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", metavar="DIR", type=Path, required=True, help="in that folder")
    parser.add_argument("--tree", default="debian", help="as for the other questions")
    arguments = parser.parse_args()
    catch_signals()  # so that the daemons end however this ends
    with scratch(arguments.place.absolute()) as folder, ExitStack() as stack:
        setting = Setting(folder, tree(arguments.tree))
        engine = Engine(setting, stack, "reflayer")
        if engine.missing is not None:
            raise SystemExit(engine.missing)
        engine.load(setting)
        print("| creates and removes | process | MiB in memory | descriptors |")
        print("| --- | --- | --- | --- |")
        for number in range(1, _ALL + 1):
            run(engine.docker("create", "--name=bench", "tree", "true"))
            engine.remove("bench")
            if number in (_FIRST, _ALL):
                for name, pid in engine.pids().items():
                    print(f"| {number} | {name} | {_memory(pid):.1f} | {_descriptors(pid)} |")


def _memory(pid: int) -> float:
    found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


if __name__ == "__main__":
    main()
