"""The service as a process of ``reflayer serve``, and a client of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpclib.health.v1 import health_pb2

from benchmarks.containerd.stub import Stub
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from tests.driver.layers import at_rest

REFLAYER = Path(sys.executable).with_name("reflayer")
_PATIENCE = 120.0  # seconds; a busy machine is no failure


class Served:
    """One service, its process and its folders, with a client's calls by their short names.

    Attributes:
        home: the folder of the snapshots.
        socket: where it listens.
    """

    def __init__(self, home: Path, path: Path) -> None:
        self.home = home
        self.socket = path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, under: Sequence[str] = ()) -> None:
        """Start the process, by the program ``under``, and connect to it."""
        where: list[str | Path] = ["--containerd-socket", self.socket, "--home", self.home]
        self._process = subprocess.Popen(
            [*under, REFLAYER, "serve", "containerd", *where, *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        until(self._listens)  # where gRPC tries in vain, it waits for a second
        self.connect()

    def connect(self) -> None:
        """Connect to the process that listens at the socket."""
        self.channel = grpc.insecure_channel(
            f"unix:{self.socket}", [("grpc.use_local_subchannel_pool", 1)]
        )
        grpc.channel_ready_future(self.channel).result(_PATIENCE)
        self.stub = snapshots_stub(self.channel)
        self.health = Stub(self.channel, health_pb2.DESCRIPTOR.services_by_name["Health"])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit status."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        self.channel.close()
        return self.ended()

    def ended(self) -> int:
        """Its exit status, for which this waits."""
        assert self._process is not None
        return self._process.wait(_PATIENCE)

    def close(self) -> None:
        """End it, if it has not ended."""
        if self.is_running:
            self.stop(signal.SIGKILL)

    @property
    def is_running(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def prepare(self, key: str, parent: str = "", **labels: str) -> Path:
        """Prepare; the folder to mount."""
        request = messages.PrepareSnapshotRequest(key=key, parent=parent, labels=labels)
        return _source(self.stub.Prepare(request).mounts, "rw")

    def unpack(self, key: str, parent: str = "") -> tuple[Path, list[Path]]:
        """Prepare for a layer to be unpacked: the folder to unpack into, and what it lies on."""
        request = messages.PrepareSnapshotRequest(key=key, parent=parent)
        return folders_of(self.stub.Prepare(request).mounts)

    def view(self, key: str, parent: str = "", **labels: str) -> Path:
        """View; the folder to mount."""
        request = messages.ViewSnapshotRequest(key=key, parent=parent, labels=labels)
        return _source(self.stub.View(request).mounts, "ro")

    def mounts(self, key: str) -> Any:
        """The answer of Mounts."""
        return self.stub.Mounts(messages.MountsRequest(key=key)).mounts

    def folder(self, key: str) -> Path:
        """The folder that Mounts answers with."""
        return Path(self.mounts(key)[0].source)

    def commit(self, name: str, key: str, *, parent: str = "", **labels: str) -> None:
        """Commit."""
        request = messages.CommitSnapshotRequest(name=name, key=key, parent=parent, labels=labels)
        self.stub.Commit(request)

    def remove(self, key: str) -> None:
        """Remove."""
        self.stub.Remove(messages.RemoveSnapshotRequest(key=key))

    def stat(self, key: str) -> messages.Info:
        """The answer of Stat."""
        info: messages.Info = self.stub.Stat(messages.StatSnapshotRequest(key=key)).info
        return info

    def update(self, name: str, paths: Sequence[str] = (), **labels: str) -> messages.Info:
        """The answer of Update."""
        request = messages.UpdateSnapshotRequest(info=messages.Info(name=name, labels=labels))
        request.update_mask.paths.extend(paths)
        info: messages.Info = self.stub.Update(request).info
        return info

    def names(self, *filters: str) -> list[str]:
        """The names that List answers with."""
        answers = self.stub.List(messages.ListSnapshotsRequest(filters=filters))
        return [info.name for answer in answers for info in answer.info]

    def usage(self, key: str) -> tuple[int, int]:
        """The bytes and inodes that Usage answers with."""
        answer = self.stub.Usage(messages.UsageRequest(key=key))
        return answer.size, answer.inodes

    def cleanup(self) -> None:
        """Cleanup."""
        self.stub.Cleanup(messages.CleanupRequest())

    def empty(self, *kept: str) -> None:
        """Remove all snapshots but those that are ``kept``."""
        answers = self.stub.List(messages.ListSnapshotsRequest())
        parents = {info.name: info.parent for answer in answers for info in answer.info}
        while gone := parents.keys() - parents.values() - set(kept):
            for name in gone:
                self.remove(name)
                del parents[name]

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "it has ended"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def folders(self) -> set[str]:
        """The names of the folders that it has for snapshots, each with its tree."""
        return set(os.listdir(self.home / "dir"))

    def differences(self) -> set[str]:
        """The names of the folders that it has for layers which are differences."""
        return set(os.listdir(self.home / "differences"))

    def leftovers(self) -> list[str]:
        """What is being made or deleted."""
        return [name for place in ("tmp", "trash") for name in os.listdir(self.home / place)]


def snapshots_stub(channel: grpc.Channel) -> Stub:
    """A client of the service on a channel."""
    return Stub(channel, messages.DESCRIPTOR.services_by_name["Snapshots"])


def code(error: BaseException) -> grpc.StatusCode:
    """The code of a refused call."""
    assert isinstance(error, grpc.RpcError)
    found: grpc.StatusCode = error.code()
    return found


@contextmanager
def served(home: Path, path: Path, *arguments: str) -> Iterator[Served]:
    """The service of ``home``, started; it is gone after the block."""
    service = Served(home, path)
    try:
        service.start(*arguments)
        yield service
    finally:
        service.close()
        at_rest(home)


def until(happened: Callable[[], bool]) -> None:
    """Wait for something; fail when it takes far too long."""
    end = time.monotonic() + _PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def folders_of(mounts: Any) -> tuple[Path, list[Path]]:
    """Upper and lower folders of the one mount, which has to be an overlay."""
    (mount,) = mounts
    assert (mount.type, mount.source) == ("overlay", "overlay")
    options = dict(option.split("=", 1) for option in mount.options)
    assert os.stat(options.pop("workdir")).st_dev == os.stat(options["upperdir"]).st_dev
    lower = options.pop("lowerdir", "")
    upper = Path(options.pop("upperdir"))
    assert not options
    return upper, [Path(folder) for folder in lower.split(":") if folder]


def _source(mounts: Any, access: str) -> Path:
    (mount,) = mounts
    assert (mount.type, list(mount.options)) == ("bind", ["rbind", access])
    return Path(mount.source)
