"""What does an image of ten layers take on disk, and one container of it, with each driver?"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.docker.engine import Engine
from benchmarks.layers import NAME, layered_image
from benchmarks.places import MKFS, mounted, tree
from benchmarks.processes import run
from benchmarks.question import Setting
from reflayer.bench.methods import scratch
from reflayer.cli.interrupt import catch_signals

_DRIVERS = ("reflayer", "vfs", "overlay2")


def main() -> None:
    """Measure on the file systems of the command line, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file-system", choices=[*MKFS], action="append", required=True)
    parser.add_argument("--tree", default="debian", help="as for the other questions")
    arguments = parser.parse_args()
    catch_signals()  # so that the daemons end however this ends
    source = tree(arguments.tree)
    print("| file system | | image, MB | with one container, MB |")
    print("| --- | --- | --- | --- |")
    for kind in arguments.file_system:
        with mounted(kind) as place:
            for name, *taken in _measured(place, source):
                print(f"| {kind} | {name} | {' | '.join(f'{size / 1e6:,.1f}' for size in taken)} |")


def _measured(place: Path, source: Path) -> Iterator[tuple[str, int, int]]:
    """The layers' archives and then the tree, unpacked; and the same of each driver."""
    with scratch(place) as folder:
        layered_image(source, folder / "image")
        (told,) = json.loads((folder / "image/manifest.json").read_text())
        before = _used(place)
        for number, layer in enumerate(told["Layers"]):
            (folder / str(number)).mkdir()
            run(["tar", "-C", str(folder / str(number)), "-xf", str(folder / "image" / layer)])
        apart = _used(place)
        image = f"{folder / 'image'}:{NAME}"
        run(["umoci", "raw", "unpack", "--image", image, str(folder / "tree")])
        yield "the layers apart, and the tree", apart - before, _used(place) - before
    for driver in _DRIVERS:
        with scratch(place) as folder, ExitStack() as stack:
            setting = Setting(folder, source)
            archive = layered_image(source, folder / "image")
            engine = Engine(setting, stack, driver)
            if engine.missing is None:
                before = _used(place)
                run(engine.docker("load", "--input", archive))
                loaded = _used(place)
                run(engine.docker("create", f"bench:{NAME}", "true"))
                yield engine.name, loaded - before, _used(place) - before


def _used(place: Path) -> int:
    """Bytes that are in use on the file system."""
    os.sync()
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


if __name__ == "__main__":
    main()
