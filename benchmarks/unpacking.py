"""How long does it take to unpack a layer, packed by gzip or not?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.images import oci_image
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival
from reflayer.copy import remove_tree

_APPLY = """
import sys
from reflayer.archive import apply_layer
with open(sys.argv[1], "rb") as blob:
    apply_layer(sys.argv[2], blob)
"""


def rivals(setting: Setting, _: ExitStack) -> list[Rival]:
    """``apply_layer`` in a process of its own and ``tar``, of both, and ``umoci unpack``."""
    plain, gzip, dst = (setting.folder / name for name in ("tar", "tar.gz", "unpacked"))
    subprocess.run(["tar", "-C", setting.tree, "-cf", plain, "."], check=True)
    subprocess.run(["tar", "-C", setting.tree, "-czf", gzip, "."], check=True)
    umoci = shutil.which("umoci") is not None
    image = oci_image(setting) if umoci else Path()
    apply: list[str | Path] = [sys.executable, "-c", _APPLY]
    tar: list[str | Path] = ["tar", "-C", dst, "--xattrs", "--xattrs-include=*"]
    commands: dict[str, list[str | Path]] = {
        "apply_layer, gzip": [*apply, gzip, dst],
        "tar -xzf": [*tar, "-xpzf", gzip],
        "apply_layer, plain": [*apply, plain, dst],
        "tar -xf": [*tar, "-xpf", plain],
    }
    return [
        *(
            Rival(name, command, before=dst.mkdir, after=partial(remove_tree, dst))
            for name, command in commands.items()
        ),
        Rival(
            "umoci unpack",
            ["umoci", "unpack", "--image", f"{image}:tree", dst],
            after=partial(remove_tree, dst),
            missing=None if umoci else "no umoci here",
        ),
    ]


if __name__ == "__main__":
    question("Unpacking a layer", rivals)
