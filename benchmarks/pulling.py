"""How long does it take from an image in a registry to a container's root file system?"""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sys
from contextlib import ExitStack
from functools import partial

from benchmarks.images import oci_image
from benchmarks.processes import run, start
from benchmarks.question import REFLAYER, Setting, question
from reflayer.bench.runs import Rival
from reflayer.copy import remove_tree

_PROBE = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"


def rivals(setting: Setting, stack: ExitStack) -> list[Rival]:
    """``reflayer create`` into a new store; ``skopeo copy``, then ``umoci unpack``."""
    for program in ("docker-registry", "skopeo", "umoci"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed: apt-get install {program}")
    name = registry(setting, stack)
    store, image, bundle = (setting.folder / part for part in ("pulled", "copied", "bundle"))
    copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}", f"oci:{image}:1"]
    unpack = ["umoci", "unpack", "--image", f"{image}:1", str(bundle)]

    def put_away() -> None:
        remove_tree(image)
        remove_tree(bundle)

    return [
        Rival(
            "reflayer create",
            [REFLAYER, "--root", store, "create", "--name", "bench", name],
            after=partial(remove_tree, store),
        ),
        Rival(
            "skopeo copy; umoci unpack",
            ["sh", "-c", f"{shlex.join(copy)} && {shlex.join(unpack)}"],
            after=put_away,
        ),
    ]


def registry(setting: Setting, stack: ExitStack) -> str:
    """Have the image in a registry that runs until ``stack`` ends; what it is called there."""
    state = setting.folder / "registry"
    state.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(state)}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    file = state / "settings.yml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    probe = [sys.executable, "-c", _PROBE, str(port)]
    missing = start(["docker-registry", "serve", str(file)], probe, state, stack)
    if missing:
        raise SystemExit(missing)
    name = f"localhost:{port}/tree:1"
    image = f"oci:{oci_image(setting)}:tree"
    run(["skopeo", "copy", "-q", "--dest-tls-verify=false", image, f"docker://{name}"])
    return name


if __name__ == "__main__":
    question("From an image in a registry to a root file system", rivals)
