"""How long does it take to unpack a layer that was packed by gzip?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.images import oci_image
from benchmarks.pairs import Rival
from benchmarks.places import delete
from benchmarks.question import Setting, question

_APPLY = """
import sys
from reflayer.archive import apply_layer
with open(sys.argv[1], "rb") as blob:
    apply_layer(sys.argv[2], blob)
"""


def rivals(setting: Setting, _: ExitStack) -> list[Rival]:
    """``apply_layer`` in a process of its own, ``tar -xzf`` and ``umoci unpack``."""
    layer, dst = setting.folder / "layer.tar.gz", setting.folder / "unpacked"
    subprocess.run(["tar", "-C", setting.tree, "-czf", layer, "."], check=True)
    umoci = shutil.which("umoci") is not None
    image = oci_image(setting) if umoci else Path()
    return [
        Rival(
            "reflayer.archive.apply_layer",
            [sys.executable, "-c", _APPLY, layer, dst],
            before=dst.mkdir,
            after=partial(delete, dst),
        ),
        Rival(
            "tar -xzf",
            ["tar", "-C", dst, "--xattrs", "--xattrs-include=*", "-xpzf", layer],
            before=dst.mkdir,
            after=partial(delete, dst),
        ),
        Rival(
            "umoci unpack",
            ["umoci", "unpack", "--image", f"{image}:tree", dst],
            after=partial(delete, dst),
            missing=None if umoci else "no umoci here",
        ),
    ]


if __name__ == "__main__":
    question("Unpacking a gzip layer", rivals)
