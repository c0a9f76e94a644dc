"""How long does ``docker rm`` take, with the vfs driver and with ours?"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.docker.engine import Engine
from benchmarks.processes import run
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours, which deletes behind, and Docker's own driver."""
    return [_removal(Engine(setting, stack, driver), setting) for driver in ("reflayer", "vfs")]


def _removal(engine: Engine, setting: Setting) -> Rival:
    if engine.missing is None:
        engine.load(setting)
    return Rival(
        f"docker rm ({engine.name})",
        engine.docker("rm", "bench"),
        before=partial(run, engine.docker("create", "--name=bench", "tree", "true")),
        after=engine.settle,
        missing=engine.missing,
    )


if __name__ == "__main__":
    question("docker rm", rivals)
