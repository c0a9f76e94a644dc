"""Docker, and nerdctl, which has the same commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from benchmarks.engines.image import CHANGE, IMAGE, TREE, Image, entries
from benchmarks.engines.steps import Side, Step
from benchmarks.processes import output, run

_LAYERS = "--format={{json .RootFS.Layers}}"
_COMMITTED, _BUILT = "bench:committed", "bench:built"

Cli = Callable[..., list[str]]
"""The command line with these arguments."""


def side(
    name: str,
    cli: Cli,
    image: Image,
    settle: Callable[[], None],
    *,
    build: Sequence[str] = ("build",),
    dockerfile: str = "Dockerfile",
) -> Side:
    """The steps of one; none builds where there is nothing to build with."""

    def running(script: str, *options: str, image: str = IMAGE) -> list[str]:
        return cli("run", "--network=none", *options, image, "sh", "-c", script)

    def layers(image: str) -> Callable[[bytes], str]:
        return lambda _: output(cli("image", "inspect", _LAYERS, image))

    def count(image: str) -> Callable[[bytes], str]:
        return lambda _: str(len(json.loads(output(cli("image", "inspect", _LAYERS, image)))))

    def left(_: bytes) -> str:
        names = [
            output(cli(what, *options)) for what, *options in (("ps", "-aq"), ("images", "-q"))
        ]
        return " ".join(names).strip()

    steps = [
        Step("load", cli("load", f"--input={image.archive}"), layers(IMAGE)),
        Step("run --rm", running(TREE, "--rm"), bytes.decode),
        Step("run", running(CHANGE, "--name=changed"), bytes.decode),
        Step("diff", cli("diff", "changed"), lambda told: "\n".join(sorted(told.decode().split()))),
        Step("export", cli("export", "changed"), entries),
        Step("commit", cli("commit", "changed", _COMMITTED), count(_COMMITTED)),
        Step("run --rm, committed", running(TREE, "--rm", image=_COMMITTED), bytes.decode),
        Step("rm", cli("rm", "changed"), _nothing, after=settle),
        Step("save", cli("save", IMAGE), entries),
    ]
    if build:
        command = [*build, f"--file={image.context / dockerfile}", f"--tag={_BUILT}"]
        steps += [
            Step("build", cli(*command, "--network=none", image.context), count(_BUILT)),
            Step("build, cached", cli(*command, "--network=none", image.context), count(_BUILT)),
        ]
    if build and dockerfile == "Dockerfile":
        steps.append(Step("run --rm, built", running(TREE, "--rm", image=_BUILT), bytes.decode))
    steps += [
        Step("rmi", cli("rmi", _COMMITTED), _nothing, after=settle),
        Step(
            "system prune --all",
            cli("system", "prune", "--all", "--force"),
            left,
            before=lambda: run(cli("create", "--network=none", IMAGE, "true")),
            after=settle,
        ),
    ]
    return Side(name, steps)


def _nothing(_: bytes) -> str:
    return ""
