"""How long does it take to tell what an image and its containers take on disk?"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack

from benchmarks.images import Store, oci_image
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival

_CONTAINERS = ("one", "two", "three")  # four trees with the image's


def rivals(setting: Setting, _: ExitStack) -> list[Rival]:
    """``reflayer df`` with all processors, with one, and ``du``, which knows no shared blocks."""
    if shutil.which("umoci") is None:
        raise SystemExit("umoci makes the image: apt-get install umoci")
    store = Store(setting, oci_image(setting))
    for name in _CONTAINERS:
        store.create(name)
    processor = str(min(os.sched_getaffinity(0)))
    return [
        Rival("reflayer df", store.command("df")),
        Rival("reflayer df, one processor", ["taskset", "-c", processor, *store.command("df")]),
        Rival("du -s", ["du", "-s", setting.folder / "store"]),
    ]


if __name__ == "__main__":
    question("Telling what is on disk", rivals)
