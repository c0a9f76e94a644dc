"""BuildKit, a daemon for each snapshotter, with runc's worker or containerd's."""

from __future__ import annotations

import json
import tarfile
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.containerd.engine import Engine
from benchmarks.engines.image import IMAGE, Image
from benchmarks.engines.steps import Side, Step
from benchmarks.processes import output, start
from benchmarks.question import Setting

APART = "buildkit"
"""What the service is called that is there for a BuildKit with a worker of its own."""
_TIME = "build-arg:SOURCE_DATE_EPOCH=1000000000"


class BuildKit:
    """One daemon.

    Attributes:
        missing: why it is not there; None where it is.
        address: its socket.
    """

    def __init__(self, name: str, setting: Setting, stack: ExitStack, worker: list[str]) -> None:
        """Start it until ``stack`` ends, with the options of its ``worker``."""
        state = Path(stack.enter_context(TemporaryDirectory(prefix="buildkit-")))
        self.name = name
        self.address = f"unix://{state}/socket"
        self._image = setting.folder / f"{state.name}.tar"
        root = setting.folder / state.name
        daemon = ["buildkitd", f"--addr={self.address}", f"--root={root}", *worker]
        self.missing = start(daemon, self.command("debug", "workers"), state, stack)

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``buildctl ARGUMENTS``."""
        return ["buildctl", f"--addr={self.address}", *arguments]

    def side(self, image: Image, engine: Engine) -> Side:
        """The steps."""
        build = self.command(
            "build",
            "--frontend=dockerfile.v0",
            f"--local=context={image.context}",
            f"--local=dockerfile={image.context}",
            f"--oci-layout=bench={image.layout}",
            f"--opt=context:{IMAGE}=oci-layout://bench@{image.digest}",
            f"--opt={_TIME}",
            f"--output=type=oci,dest={self._image},rewrite-timestamp=true",
        )
        steps = [
            Step("build", build, self._manifest, after=engine.settle),
            Step("build, cached", build, self._manifest),
            Step("prune --all", self.command("prune", "--all"), self._left, after=engine.settle),
        ]
        return Side(self.name, steps)

    def _manifest(self, _: bytes) -> str:
        """The digest of what was built."""
        with tarfile.open(self._image) as tar:
            index = tar.extractfile("index.json")
            assert index is not None
            digest: str = json.loads(index.read())["manifests"][0]["digest"]
        self._image.unlink()
        return digest

    def _left(self, _: bytes) -> str:
        """What is left of the build; what came of the client is kept for the next one."""
        return output(self.command("du", "--format={{json .}}"))


def runc_worker(name: str, engine: Engine) -> list[str]:
    """The options for runc's worker with a snapshotter; ours is one that containerd has not."""
    options = ["--containerd-worker=false", "--oci-worker=true", f"--oci-worker-snapshotter={name}"]
    if name == "reflayer":
        options.append(f"--oci-worker-proxy-snapshotter-path={engine.socket(APART)}")
    return [*options, "--oci-worker-net=host"]


def containerd_worker(name: str, engine: Engine) -> list[str]:
    """The same for containerd's worker."""
    return [
        "--oci-worker=false",
        "--containerd-worker=true",
        f"--containerd-worker-addr={engine.address}",
        f"--containerd-worker-namespace=buildkit-{name}",
        f"--containerd-worker-snapshotter={name}",
        "--containerd-worker-net=host",
    ]
