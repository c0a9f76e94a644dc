"""How long does it take until four snapshots are removed and deleted, beside containerd's own?

What ``ctr snapshots rm`` removes is collected behind; who removes a lease and waits, as Docker and
BuildKit do, waits for that.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.containerd.engine import Engine, bring_in
from benchmarks.processes import run
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival

_COUNT = 4


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours without spares and with them, containerd's own, in one containerd."""
    engine = Engine(setting, stack)
    return [
        _removal(engine, name, setting) for name in ("reflayer", "native", "spares", "overlayfs")
    ]


def _removal(engine: Engine, snapshotter: str, setting: Setting) -> Rival:
    name = f"{_COUNT} snapshots removed ({snapshotter})"
    if engine.missing is not None:
        return Rival(name, (), missing=engine.missing)
    bring_in(engine, snapshotter, setting)
    layer = engine.layer(snapshotter)
    keys = [f"{snapshotter}-{number}" for number in range(_COUNT)]

    def prepare() -> None:
        for key in keys:
            run(engine.snapshots(snapshotter, "prepare", key, layer))

    def remove() -> None:
        run(engine.snapshots(snapshotter, "remove", *keys))
        run(engine.ctr("leases", "create", "--id=bench"))
        run(engine.ctr("leases", "rm", "--sync", "bench"))

    return Rival(name, remove, before=prepare, after=engine.settle)


if __name__ == "__main__":
    question("containerd: snapshots removed and deleted", rivals)
