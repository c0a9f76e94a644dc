"""A client of containerd's Kubernetes plugin, made from ``cri.proto`` when the tests run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_tools import protoc  # type: ignore[import-untyped]

_HERE = Path(__file__).parent


class Cri:
    """The two services at a socket.

    Attributes:
        messages: the module of the messages.
        runtime: the service of sandboxes and containers.
        images: the service of images.
    """

    def __init__(self, socket: Path, made: Path) -> None:
        """Generate the modules in the folder ``made`` and connect."""
        made.mkdir()
        options = [f"--proto_path={_HERE}", f"--python_out={made}", f"--grpc_python_out={made}"]
        assert protoc.main(["protoc", *options, "cri.proto"]) == 0
        sys.path.insert(0, str(made))
        try:
            self.messages: Any = importlib.import_module("cri_pb2")
            stubs: Any = importlib.import_module("cri_pb2_grpc")
        finally:
            sys.path.remove(str(made))
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self.runtime = stubs.RuntimeServiceStub(self._channel)
        self.images = stubs.ImageServiceStub(self._channel)

    def image(self, name: str) -> Any:
        """The request that names an image."""
        return self.messages.ImageRequest(image={"image": name})

    def pull(self, name: str, pod: Any = None, handler: str = "") -> None:
        """Pull an image for a pod, whose RuntimeClass has this handler."""
        image = {"image": name, "runtime_handler": handler}
        self.images.PullImage(self.messages.ImageRequest(image=image, sandbox_config=pod))

    def close(self) -> None:
        """End the connection."""
        self._channel.close()
