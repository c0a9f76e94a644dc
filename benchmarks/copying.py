"""How long does it take to make one tree the same as another?"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.processes import run
from benchmarks.question import REFLAYER, Setting, question
from reflayer import copy_tree
from reflayer.bench.runs import Command, Rival
from reflayer.copy import remove_tree

_C = Path(__file__).with_name("copy.c")
_GO_PATH = Path("/usr/share/gocode")  # where Debian has the sources of Go packages
_GO = """
package main

import (
	"log"
	"os"

	"{package}"
)

func main() {{
	if err := copy.DirCopy(os.Args[1], os.Args[2], copy.Content, {flag}); err != nil {{
		log.Fatal(err)
	}}
}}
"""
# As the vfs drivers of both call it: Docker's keeps overlay's attributes on demand, the other all.
_DOCKER = {"package": "github.com/docker/docker/daemon/graphdriver/copy", "flag": "false"}
_CONTAINERS = {"package": "github.com/containers/storage/drivers/copy", "flag": "true"}
# It would read the devices: /dev/zero has no end.
_COPYTREE = """
import shutil, sys
src, dst = sys.argv[1:]
shutil.copytree(src, dst, symlinks=True, ignore=lambda at, _: ["dev"] if at == src else [])
"""
_TAR_PIPE = (
    'mkdir "$2" && tar -C "$1" --xattrs --acls -cf - . | '
    "tar -C \"$2\" --xattrs --xattrs-include='*' --acls -xpf -"
)


def rivals(setting: Setting, _: ExitStack) -> list[Rival]:
    """``reflayer copy``, and what people copy trees with."""
    src, dst = setting.tree, setting.folder / "copy"
    one_worker: list[str | Path] = [REFLAYER, "copy", "--workers", "1", src, dst]
    commands: dict[str, Command] = {
        "reflayer copy": [REFLAYER, "copy", src, dst],
        "reflayer copy --workers 1": one_worker,
        "REFLAYER_PURE=1 reflayer copy --workers 1": ["env", "REFLAYER_PURE=1", *one_worker],
        "reflayer.copy_tree, warm": partial(copy_tree, src, dst),
        "python -c pass": [sys.executable, "-c", "pass"],
        "cp -a": ["cp", "-a", src, dst],
        "rsync -aHAX": ["rsync", "-aHAX", f"{src}/", f"{dst}/"],
        "tar pipe": ["sh", "-c", _TAR_PIPE, "sh", src, dst],
        "shutil.copytree without /dev": [sys.executable, "-c", _COPYTREE, src, dst],
    }
    threads = min(len(os.sched_getaffinity(0)), 64)  # it takes no more
    return [
        *(
            Rival(name, command, after=partial(remove_tree, dst), missing=_missing(command))
            for name, command in commands.items()
        ),
        _in_c(f"copy.c, {threads} threads", setting, dst, threads),
        _in_go("Docker's vfs copy (Go)", setting, dst, **_DOCKER),
        _in_go("containers/storage's vfs copy (Go)", setting, dst, **_CONTAINERS),
    ]


def _missing(command: Command) -> str | None:
    if callable(command) or shutil.which(command[0]):
        return None
    return f"no {command[0]} here"


def _in_c(name: str, setting: Setting, dst: Path, threads: int) -> Rival:
    program = setting.folder / "copy-in-c"
    return Rival(
        name,
        [program, setting.tree, dst, str(threads)],
        before=partial(_build, program, ["gcc", "-O2", "-pthread", "-o", program, _C]),
        after=partial(remove_tree, dst),
        missing=_missing(["gcc"]),
    )


def _in_go(name: str, setting: Setting, dst: Path, package: str, flag: str) -> Rival:
    program = setting.folder / f"copy-in-{package.split('/')[1]}"
    source = program.with_suffix(".go")
    source.write_text(_GO.format(package=package, flag=flag))
    go = ["env", "GO111MODULE=off", "GOFLAGS=", f"GOPATH={_GO_PATH}", "go"]
    there = (_GO_PATH / "src" / package).is_dir()
    return Rival(
        name,
        [program, setting.tree, dst],
        before=partial(_build, program, [*go, "build", "-o", program, source]),
        after=partial(remove_tree, dst),
        missing=_missing(["go"]) if there else f"no Go package {package} here",
    )


def _build(program: Path, command: Sequence[str | Path]) -> None:
    if not program.exists():
        run([*map(str, command)])


if __name__ == "__main__":
    question("Copying a tree", rivals)
