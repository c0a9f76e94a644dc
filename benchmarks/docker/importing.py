"""How long does ``docker import`` of a tar take, with the vfs driver and with ours?"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from functools import partial

from benchmarks.docker.engine import Engine
from benchmarks.processes import run
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours and Docker's own driver."""
    archive = setting.folder / "tree.tar"
    subprocess.run(["tar", "-C", setting.tree, "-cf", archive, "."], check=True)
    return [
        Rival(
            f"docker import ({engine.name})",
            engine.docker("import", archive, "bench"),
            after=partial(_remove, engine),
            missing=engine.missing,
        )
        for engine in (Engine(setting, stack, driver) for driver in ("reflayer", "vfs"))
    ]


def _remove(engine: Engine) -> None:
    run(engine.docker("rmi", "bench"))
    engine.settle()


if __name__ == "__main__":
    question("docker import", rivals)
