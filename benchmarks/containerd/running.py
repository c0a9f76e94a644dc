"""How long does ``ctr run --rm`` of ``true`` take, beside containerd's own snapshotters?"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.containerd.engine import Engine, running
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours with a spare ready, containerd's own, and ours without, in one containerd."""
    engine = Engine(setting, stack)
    names = ("spares", "overlayfs", "native", "reflayer")
    return [running(engine, name, setting) for name in names]


if __name__ == "__main__":
    question("ctr run --rm IMAGE true", rivals)
