"""How long does ``ctr snapshots prepare`` take, with the native snapshotter and with ours?"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.containerd.engine import Engine, preparation
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours, which clones, containerd's own, and ours with a spare ready, in one containerd."""
    engine = Engine(setting, stack)
    return [preparation(engine, name, setting) for name in ("reflayer", "native", "spares")]


if __name__ == "__main__":
    question("ctr snapshots prepare", rivals)
