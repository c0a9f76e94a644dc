"""How long does it take to remove a container's root file system?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.images import Store, oci_image
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival

_RMTREE = "import shutil, sys; shutil.rmtree(sys.argv[1])"


def rivals(setting: Setting, _: ExitStack) -> list[Rival]:
    """``reflayer rm``, which deletes behind, the same with ``--wait``, and those who delete."""
    if shutil.which("umoci") is None:
        raise SystemExit("umoci makes the image: apt-get install umoci")
    store = Store(setting, oci_image(setting))
    copy = setting.folder / "copy"
    make_copy = partial(_copy, setting.tree, copy)
    return [
        Rival(
            "reflayer rm",
            store.command("rm", "bench"),
            before=partial(store.create, "bench"),
            after=store.settle,
        ),
        Rival(
            "reflayer rm --wait",
            store.command("rm", "--wait", "bench"),
            before=partial(store.create, "bench"),
        ),
        Rival("rm -rf", ["rm", "-rf", copy], before=make_copy),
        Rival("shutil.rmtree", [sys.executable, "-c", _RMTREE, copy], before=make_copy),
    ]


def _copy(tree: Path, copy: Path) -> None:
    subprocess.run(["cp", "-a", "--", tree, copy], check=True)


if __name__ == "__main__":
    question("Removing a container", rivals)
