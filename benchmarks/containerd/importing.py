"""How long does ``ctr images import`` of ten layers take, beside containerd's own snapshotters?"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.containerd.engine import Engine
from benchmarks.layers import NAME, layered_image
from benchmarks.processes import run
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours and containerd's own, in one containerd."""
    engine = Engine(setting, stack)
    names = ("reflayer", "native", "overlayfs")
    if engine.missing is not None:
        return [Rival(_title(name), (), missing=engine.missing) for name in names]
    archive = layered_image(setting.tree, setting.folder / "image")
    return [
        Rival(_title(name), engine.importing(name, archive), after=partial(_remove, engine))
        for name in names
    ]


def _title(snapshotter: str) -> str:
    return f"ctr images import ({snapshotter})"


def _remove(engine: Engine) -> None:
    """Remove the image with its layers and blobs, so that all of it is made anew."""
    run(engine.ctr("images", "remove", "--sync", f"bench:{NAME}"))
    engine.settle()


if __name__ == "__main__":
    question("ctr images import, ten layers", rivals)
