"""How long does it take to tell that a container is as its image?"""

from __future__ import annotations

import shutil
from contextlib import ExitStack

from benchmarks.images import Store, oci_image
from benchmarks.processes import output
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival

# To diff(1) two devices differ, whatever they are.
_DIFF = """
! LC_ALL=C diff -rq --no-dereference "$1" "$2" 2>&1 |
    grep --extended-regexp --invert-match "(special file|fifo|socket) while" >&2
"""


def rivals(setting: Setting, _: ExitStack) -> list[Rival]:
    """``reflayer diff`` of a container nothing was done to, and ``diff``, which reads all of it."""
    if shutil.which("umoci") is None:
        raise SystemExit("umoci makes the image: apt-get install umoci")
    store = Store(setting, oci_image(setting))
    store.create("bench")
    root = output(store.command("path", "bench")).strip()
    return [
        Rival("reflayer diff", store.command("diff", "bench")),
        Rival("diff -rq", ["sh", "-c", _DIFF, "sh", setting.tree, root]),
    ]


if __name__ == "__main__":
    question("Telling what changed in a container", rivals)
