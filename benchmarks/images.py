"""The tree as an image, and a store that has it, for those who start from an image."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.processes import run
from benchmarks.question import REFLAYER, Setting


def oci_image(setting: Setting) -> Path:
    """An OCI image layout whose image ``tree`` has one gzip layer, made by umoci the first time."""
    image = setting.folder / "image"
    if image.is_dir():
        return image
    tagged = f"{image}:tree"
    run(["umoci", "init", "--layout", str(image)])
    run(["umoci", "new", "--image", tagged])
    run(["umoci", "insert", "--image", tagged, str(setting.tree), "/"])
    return image


class Store:
    """A store of reflayer on the file system that is measured.

    Attributes:
        image: the image, as the command line takes it.
    """

    def __init__(self, setting: Setting, image: Path) -> None:
        self.image = f"oci:{image}:tree"
        self._root = setting.folder / "store"

    def command(self, *arguments: str) -> list[str]:
        """A command line of reflayer for this store."""
        return [str(REFLAYER), "--root", str(self._root), *arguments]

    def create(self, name: str) -> None:
        """Make a container; the first one brings the image in."""
        run(self.command("create", "--name", name, self.image))

    def remove(self, name: str) -> None:
        """Remove a container to its last file."""
        run(self.command("rm", "--wait", name))

    def settle(self) -> None:
        """Wait until what was removed is deleted, so that the next one is not disturbed."""
        trash = self._root / "layers" / "trash"
        while any(trash.iterdir()):
            time.sleep(0.01)
