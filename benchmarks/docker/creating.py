"""How long does ``docker create`` take, with the vfs driver and with each of our methods?"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.docker.engine import Engine, creation, docker_vfs
from benchmarks.question import Setting, question
from reflayer.bench.methods import file_system
from reflayer.bench.runs import Rival


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours with the best method, then Docker's own driver, then ours from the worst on.

    All of ours clone, but for the last.
    """
    methods = ["tar", "range"]
    if file_system(str(setting.folder)) != "ext4":
        methods.append("reflink")
    return [
        creation(Engine(setting, stack, "reflayer"), setting),
        docker_vfs(setting, stack),
        *(creation(Engine(setting, stack, "reflayer", method), setting) for method in methods),
        creation(Engine(setting, stack, "reflayer", spares=4), setting),
    ]


if __name__ == "__main__":
    question("docker create", rivals)
