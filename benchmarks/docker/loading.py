"""How long does ``docker load`` of ten layers take, with Docker's drivers and with ours?"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.docker.engine import Engine
from benchmarks.layers import NAME, layered_image
from benchmarks.processes import run
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours, and Docker's own drivers without and with overlay mounts."""
    archive = layered_image(setting.tree, setting.folder / "image")
    return [
        Rival(
            f"docker load ({engine.name})",
            engine.docker("load", "--input", archive),
            after=partial(_remove, engine),
            missing=engine.missing,
        )
        for engine in (Engine(setting, stack, driver) for driver in ("reflayer", "vfs", "overlay2"))
    ]


def _remove(engine: Engine) -> None:
    run(engine.docker("rmi", f"bench:{NAME}"))
    engine.settle()


if __name__ == "__main__":
    question("docker load, ten layers", rivals)
