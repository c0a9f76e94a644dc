"""How long does it take from an image of ten layers in a layout to a root file system?"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial

from benchmarks.layers import NAME, layered_image
from benchmarks.question import REFLAYER, Setting, question
from reflayer.bench.runs import Rival
from reflayer.copy import remove_tree


def rivals(setting: Setting, _: ExitStack) -> list[Rival]:
    """``reflayer create`` into a new store, and ``umoci unpack``."""
    if shutil.which("umoci") is None:
        raise SystemExit("umoci is needed: apt-get install umoci")
    image, store, bundle = (setting.folder / name for name in ("image", "imported", "bundle"))
    layered_image(setting.tree, image)
    create = ["create", "--name", "bench", f"oci:{image}:{NAME}"]
    return [
        Rival(
            "reflayer create",
            [REFLAYER, "--root", store, *create],
            after=partial(remove_tree, store),
        ),
        Rival(
            "umoci unpack",
            ["umoci", "unpack", "--image", f"{image}:{NAME}", bundle],
            after=partial(remove_tree, bundle),
        ),
    ]


if __name__ == "__main__":
    question("From an image of ten layers to a root file system", rivals)
