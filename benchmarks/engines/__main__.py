"""Does each engine do on reflayer what it does on its own snapshotters, and in what time?

    scripts/engines --file-system xfs
    scripts/engines --file-system xfs --programs FOLDER --only nerdctl --json

The programs are those of the folder, then those of PATH, whatever their versions are; what is
missing is left out, and the table tells of it. Exit status: 1 where something is not as on the
engine's own snapshotter.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import reflayer
from benchmarks.containerd.engine import OWN, Engine
from benchmarks.docker.engine import Engine as Docker
from benchmarks.engines import buildkit, ctr, docker
from benchmarks.engines.image import Image, make_image
from benchmarks.engines.steps import Answer, Side, answers
from benchmarks.places import MKFS, mounted, tree
from benchmarks.processes import output
from benchmarks.question import Setting
from reflayer.bench.methods import machine_facts, scratch
from reflayer.bench.runs import Times
from reflayer.cli.arguments import at_least_one
from reflayer.cli.interrupt import Interrupted, catch_signals
from reflayer.record import record

_SNAPSHOTTERS = ("reflayer", *OWN)
_SPARES = {"reflayer": 4}  # as the daemon's default
_ENVIRONMENT = {"DOCKER_BUILDKIT": "0", "DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS": "1"}
"""Of Docker's programs: its own builder, and what 27 wants for a plugin."""
_FIRST_IN_CONTAINERD = 28
"""The Docker Engine that has its images in containerd, and no plugins of ours any more."""


@record
class Check:
    """One engine: the programs that it needs, and what makes its sides."""

    name: str
    programs: Sequence[str]  # the first tells the version


_CHECKS = (
    Check("containerd", ("containerd", "ctr", "runc")),
    Check("BuildKit", ("buildkitd", "buildctl", "runc")),
    Check("BuildKit on containerd", ("buildkitd", "buildctl", "containerd", "ctr", "runc")),
    Check("Docker", ("dockerd", "docker", "containerd", "ctr", "runc")),
    Check("nerdctl", ("nerdctl", "containerd", "ctr", "runc")),
)
_WITH_RUNC_WORKERS = ("BuildKit", "nerdctl")
"""Those of which a BuildKit has snapshots that the containerd beside it does not know."""


@record
class Outcome:
    """What became of one engine: the answers, or why there are none."""

    name: str
    version: str
    missing: str
    answers: Sequence[Answer]


def main() -> int:
    """The command line."""
    arguments = _parser().parse_args()
    if os.geteuid() != 0:
        raise SystemExit("daemons and mounts need root")
    if arguments.programs:
        os.environ["PATH"] = f"{arguments.programs.absolute()}:{os.environ['PATH']}"
    os.environ.update(_ENVIRONMENT)
    compileall.compile_dir(Path(reflayer.__file__).parent, quiet=2)
    catch_signals()  # so that daemons, mounts and folders go however this ends
    try:
        source = tree(arguments.tree)
        kind = arguments.file_system
        with (
            mounted(kind) if kind else nullcontext(arguments.place) as place,
            scratch(place) as folder,
        ):
            image = make_image(Setting(folder, source))
            found = [
                _outcome(check, folder, image, arguments.runs)
                for check in _CHECKS
                if not arguments.only or check.name in arguments.only
            ]
    except Interrupted as interrupted:
        sys.exit(interrupted.status)
    print(_json(found) if arguments.json else _table(found))
    return int(any(answer.is_fault for one in found for answer in one.answers))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="engines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--file-system", choices=[*MKFS], help="on a new file system in a loop device"
    )
    where.add_argument("--place", metavar="DIR", type=Path, help="in that folder")
    parser.add_argument(
        "--programs", metavar="DIR", type=Path, help="where the engines are; else in PATH"
    )
    parser.add_argument(
        "--only",
        metavar="ENGINE",
        action="append",
        choices=[check.name for check in _CHECKS],
        help="only this engine; may be repeated: " + ", ".join(check.name for check in _CHECKS),
    )
    parser.add_argument(
        "--tree", default="debian", help="of the image: debian (default), or a folder with a shell"
    )
    parser.add_argument(
        "--runs", metavar="N", type=at_least_one, default=3, help="that count (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    return parser


def _outcome(check: Check, folder: Path, image: Image, rounds: int) -> Outcome:
    absent = [name for name in check.programs if shutil.which(name) is None]
    if absent:
        return Outcome(check.name, "", f"no {', '.join(absent)} here", ())
    version = _version(check.programs[0])
    with scratch(folder) as own, ExitStack() as stack:
        try:
            sides = [*_sides(check.name, Setting(own, own), image, stack)]
        except SystemExit as error:
            return Outcome(check.name, version, str(error), ())
        return Outcome(check.name, version, "", answers(sides, rounds))


def _sides(name: str, setting: Setting, image: Image, stack: ExitStack) -> Iterator[Side]:
    if name == "Docker" and _docker_release() < _FIRST_IN_CONTAINERD:
        yield from _docker_with_plugin(setting, image, stack)
        return
    apart = {buildkit.APART: _SPARES["reflayer"]} if name in _WITH_RUNC_WORKERS else {}
    engine = Engine(setting, stack, ours=_SPARES, apart=apart)
    _there(engine.missing)
    match name:
        case "containerd":
            yield from ctr.sides(engine, image, _SNAPSHOTTERS)
        case "BuildKit" | "BuildKit on containerd":
            worker = buildkit.runc_worker if name == "BuildKit" else buildkit.containerd_worker
            for one in _SNAPSHOTTERS:
                daemon = buildkit.BuildKit(one, setting, stack, worker(one, engine))
                _there(daemon.missing)
                yield daemon.side(image, engine)
        case "Docker":
            for one in _SNAPSHOTTERS:
                daemons = Docker(setting, stack, one, containerd=engine.address)
                _there(daemons.missing)
                yield docker.side(one, daemons.docker, image, engine.settle)
        case _:
            yield from _nerdctl(engine, setting, image, stack)


def _docker_with_plugin(setting: Setting, image: Image, stack: ExitStack) -> Iterator[Side]:
    for driver in ("reflayer", "vfs", "overlay2"):
        daemon = Docker(setting, stack, driver, spares=_SPARES.get(driver, 0))
        _there(daemon.missing)
        yield docker.side(driver, daemon.docker, image, daemon.settle)


def _nerdctl(engine: Engine, setting: Setting, image: Image, stack: ExitStack) -> Iterator[Side]:
    """It builds by a BuildKit of its own, where there is one."""
    state = stack.enter_context(TemporaryDirectory(prefix="nerdctl-"))
    builds = all(map(shutil.which, ("buildkitd", "buildctl")))
    for one in _SNAPSHOTTERS:
        build = []
        if builds:
            daemon = buildkit.BuildKit(one, setting, stack, buildkit.runc_worker(one, engine))
            _there(daemon.missing)
            build = ["build", f"--buildkit-host={daemon.address}"]
        command = [
            "nerdctl",
            f"--address={engine.address}",
            f"--namespace=nerdctl-{one}",
            f"--snapshotter={one}",
            f"--data-root={state}/{one}",
            f"--cni-netconfpath={state}/net.d",
        ]
        yield docker.side(
            one,
            partial(_joined, command),
            image,
            engine.settle,
            build=build,
            dockerfile="Dockerfile.scratch",
        )


def _joined(command: Sequence[str], *arguments: str | Path) -> list[str]:
    return [*command, *map(str, arguments)]


def _there(missing: str | None) -> None:
    if missing is not None:
        raise SystemExit(missing)


def _version(program: str) -> str:
    words = output([program, "--version"]).replace(",", "").split()
    return next((word for word in words if word.lstrip("v")[:1].isdigit()), words[-1])


def _docker_release() -> int:
    return int(_version("dockerd").partition(".")[0])


def _json(found: Sequence[Outcome]) -> str:
    return json.dumps(
        {
            **machine_facts(),
            "engines": [
                {
                    "engine": one.name,
                    "version": one.version,
                    "missing": one.missing,
                    "steps": [
                        {
                            "step": answer.step,
                            "is_fault": answer.is_fault,
                            "failure": answer.failure,
                            "unlike": answer.unlike,
                            "seconds": {times.name: times.seconds for times in answer.times},
                        }
                        for answer in one.answers
                    ],
                }
                for one in found
            ],
        }
    )


def _table(found: Sequence[Outcome]) -> str:
    lines = [
        "Medians in seconds; in brackets the time of reflayer as a part of that, the median of "
        f"the pairs. {', '.join(machine_facts().values())}."
    ]
    for one in found:
        lines += [
            "",
            f"{one.name} {one.version}".rstrip() + (f": {one.missing}" * bool(one.missing)),
        ]
        if not one.answers:
            continue
        names = [times.name for times in one.answers[0].times]
        lines += [
            "",
            f"| | {' | '.join(names)} | result |",
            "| --- |" + " --- |" * (len(names) + 1),
        ]
        lines += [_row(answer) for answer in one.answers]
        for answer in one.answers:
            for name, (ours, theirs) in answer.unlike.items():
                lines += ["", f"{answer.step}: {names[0]} told", ours, f"and {name}", theirs]
    return "\n".join(lines)


def _row(answer: Answer) -> str:
    ours, *own = answer.times
    cells = [ours.missing or f"{ours.median:.2f}", *(_cell(times, ours) for times in own)]
    return f"| {answer.step} | {' | '.join(cells)} | {_result(answer)} |"


def _cell(times: Times, ours: Times) -> str:
    part = "" if ours.missing else f" ({times.ratio_of(ours)[0]:.2f})"
    return times.missing or f"{times.median:.2f}{part}"


def _result(answer: Answer) -> str:
    names = ", ".join(answer.unlike)
    if answer.is_fault:
        return f"**not as {names}**"
    if answer.failure and not names:
        return f"fails everywhere: {answer.failure}"
    return f"not as {names}, which differ" if names else "the same"


if __name__ == "__main__":
    sys.exit(main())
