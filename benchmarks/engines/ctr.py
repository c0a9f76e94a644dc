"""containerd by ``ctr``, with ours and its own snapshotters in one daemon, a namespace each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.containerd.engine import Engine
from benchmarks.engines.image import CHANGE, FULL_NAME, TREE, Image, entries
from benchmarks.engines.steps import Side, Step
from benchmarks.processes import output, run

_LAYER = "application/vnd.oci.image.layer.v1.tar"


def sides(engine: Engine, image: Image, names: Sequence[str]) -> list[Side]:
    """The steps for each snapshotter."""
    return [Side(name, _steps(engine, image, name)) for name in names]


def _steps(engine: Engine, image: Image, name: str) -> list[Step]:
    which = f"--snapshotter={name}"

    def ctr(*arguments: str | Path) -> list[str]:
        return engine.ctr("--namespace", name, *arguments)

    def snapshots(*arguments: str) -> list[str]:
        return ctr("snapshots", which, *arguments)

    def running(container: str, script: str, *options: str) -> list[str]:
        return ctr("run", *options, which, FULL_NAME, f"{name}-{container}", "sh", "-c", script)

    def rows(_: bytes = b"") -> str:
        listed = output(snapshots("ls")).splitlines()[1:]
        return "\n".join(sorted(" ".join(line.split()).replace(name, "") for line in listed))

    return [
        Step(
            "images import",
            ctr("images", "import", which, image.archive),
            rows,
        ),
        Step("run --rm", running("tree", TREE, "--rm"), bytes.decode),
        Step("run", running("changed", CHANGE), rows),
        Step(
            "snapshots diff",
            snapshots("diff", f"--media-type={_LAYER}", f"{name}-changed"),
            entries,
        ),
        Step("snapshots commit", snapshots("commit", f"{name}-kept", f"{name}-changed"), rows),
        Step("snapshots prepare", snapshots("prepare", f"{name}-next", f"{name}-kept"), rows),
        Step(
            "snapshots diff, of nothing",
            snapshots("diff", f"--media-type={_LAYER}", f"{name}-next"),
            entries,
        ),
        Step("snapshots rm", snapshots("rm", f"{name}-next"), rows),
        Step("snapshots rm, committed", snapshots("rm", f"{name}-kept"), rows),
        Step(
            "images rm --sync",
            ctr("images", "rm", "--sync", FULL_NAME),
            rows,
            before=lambda: run(ctr("containers", "rm", f"{name}-changed")),
            after=engine.settle,
        ),
    ]
