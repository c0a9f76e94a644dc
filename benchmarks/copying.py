"""How long does it take to make one tree the same as another?"""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.pairs import Rival
from benchmarks.places import delete
from benchmarks.question import REFLAYER, Setting, question

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
    commands: dict[str, list[str | Path]] = {
        "reflayer copy": [REFLAYER, "copy", src, dst],
        "reflayer copy --workers 1": [REFLAYER, "copy", "--workers", "1", src, dst],
        "cp -a": ["cp", "-a", src, dst],
        "rsync -aHAX": ["rsync", "-aHAX", f"{src}/", f"{dst}/"],
        "tar pipe": ["sh", "-c", _TAR_PIPE, "sh", src, dst],
        "shutil.copytree without /dev": [sys.executable, "-c", _COPYTREE, src, dst],
    }
    return [
        Rival(
            name,
            command,
            after=partial(delete, dst),
            missing=None if shutil.which(command[0]) else f"no {command[0]} here",
        )
        for name, command in commands.items()
    ]


if __name__ == "__main__":
    question("Copying a tree", rivals)
