"""The tree as an image, for those who start from one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.question import Setting


def oci_image(setting: Setting) -> Path:
    """An OCI image layout whose image ``tree`` has one gzip layer, made by umoci."""
    image = setting.folder / "image"
    tagged = f"{image}:tree"
    _umoci("init", "--layout", str(image))
    _umoci("new", "--image", tagged)
    _umoci("insert", "--image", tagged, str(setting.tree), "/")
    return image


def _umoci(*arguments: str) -> None:
    subprocess.run(["umoci", *arguments], check=True, capture_output=True)
