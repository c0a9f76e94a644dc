"""How long does ``ctr images import`` of three layers take, natively and with ours?"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.containerd.engine import Engine
from benchmarks.images import oci_image
from benchmarks.processes import run
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival
from reflayer.bench.sample_tree import make_tree

_SMALL = 1000  # entries of each layer on top of the tree


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """Ours and containerd's own, in one containerd."""
    engine = Engine(setting, stack)
    names = ("reflayer", "native")
    if engine.missing is not None:
        return [Rival(_title(name), (), missing=engine.missing) for name in names]
    archive = _archive(setting)
    return [
        Rival(_title(name), engine.importing(name, archive), after=partial(_remove, engine))
        for name in names
    ]


def _title(snapshotter: str) -> str:
    return f"ctr images import ({snapshotter})"


def _archive(setting: Setting) -> Path:
    """The tree, and two smaller layers on top of it, as a tar of an image layout."""
    layout, archive = oci_image(setting), setting.folder / "three.tar"
    for number in (2, 3):
        small = setting.folder / f"layer-{number}"
        small.mkdir()
        make_tree(str(small), _SMALL)
        run(["umoci", "insert", "--image", f"{layout}:tree", str(small), f"/layer-{number}"])
    run(["tar", "-C", str(layout), "-cf", str(archive), "."])
    return archive


def _remove(engine: Engine) -> None:
    """Remove the image with its layers and blobs, so that all of it is made anew."""
    run(engine.ctr("images", "remove", "--sync", "bench:tree"))
    engine.settle()


if __name__ == "__main__":
    question("ctr images import, three layers", rivals)
