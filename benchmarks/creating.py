"""How long does it take to make a container's root file system from an image that is there?"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import partial

from benchmarks.containerd.engine import containerd_native
from benchmarks.docker.engine import docker_vfs
from benchmarks.images import Store, oci_image
from benchmarks.question import Setting, question
from reflayer.bench.runs import Rival
from reflayer.copy import remove_tree


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """``reflayer create``, Docker's vfs, containerd's native, and an unpack for each container."""
    if shutil.which("umoci") is None:
        raise SystemExit("umoci makes the image: apt-get install umoci")
    image = oci_image(setting)
    store = Store(setting, image)
    store.create("warm")
    bundle = setting.folder / "bundle"
    return [
        Rival(
            "reflayer create",
            store.command("create", "--name", "bench", store.image),
            after=partial(store.remove, "bench"),
        ),
        docker_vfs(setting, stack),
        containerd_native(setting, stack),
        Rival(
            "umoci unpack",
            ["umoci", "unpack", "--image", f"{image}:tree", bundle],
            after=partial(remove_tree, bundle),
        ),
    ]


if __name__ == "__main__":
    question("Creating a container from an image that is there", rivals)
