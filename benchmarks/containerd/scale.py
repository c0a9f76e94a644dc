"""What do 10,000 snapshots cost? Times of Stat, List and a start, and the memory of the process.

Timed by a gRPC client in Python, whose own work is in the figures.

    .venv/bin/python -m benchmarks.containerd.scale --place /var/lib
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from benchmarks.containerd.stub import Stub
from benchmarks.question import REFLAYER
from reflayer.bench.methods import scratch
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages

_CHAIN = 10  # committed snapshots above each other
_LABELS = {
    "containerd.io/snapshot.ref": "sha256:" + "0" * 64,
    "containerd.io/snapshot/cri.image-ref": "docker.io/library/debian:stable",
    "containerd.io/snapshot/cri.layer-digest": "sha256:" + "1" * 64,
    "containerd.io/gc.root": "2026-01-01T00:00:00Z",
}
_PATIENCE = 60  # seconds until the service answers


class Service:
    """``reflayer serve containerd`` as a process, started again and again."""

    def __init__(self, home: Path, socket: Path) -> None:
        where = [f"--home={home}", f"--containerd-socket={socket}"]
        self._command = [str(REFLAYER), "serve", "containerd", *where, "--log-level=error"]
        self._socket = socket

    def start(self) -> float:
        """Start it; the seconds until it has answered."""
        started = time.monotonic()
        self._process = subprocess.Popen(self._command, start_new_session=True)
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() - started > _PATIENCE:
                raise SystemExit("the service does not start")
            time.sleep(0.002)
        self._channel = grpc.insecure_channel(f"unix:{self._socket}")
        self.stub = Stub(self._channel, messages.DESCRIPTOR.services_by_name["Snapshots"])
        self.stub.List(messages.ListSnapshotsRequest(filters=["name==none"]), wait_for_ready=True)
        return time.monotonic() - started

    def stop(self) -> None:
        """Stop it."""
        self._channel.close()
        self._process.terminate()
        self._process.wait()

    def resident(self) -> float:
        """MiB of memory that it takes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["VmRSS"].split()[0]) / 1024


def fill(stub: Stub, chain: int) -> list[str]:
    """A chain of committed snapshots, and as many active ones and views of its top; their names."""
    names = []
    parent = ""
    for number in range(_CHAIN):
        key, name = f"k8s.io/{number}/extract-{chain} layer", f"k8s.io/{number}/sha256:{chain:064}"
        stub.Prepare(messages.PrepareSnapshotRequest(key=key, parent=parent, labels=_LABELS))
        stub.Commit(messages.CommitSnapshotRequest(key=key, name=name, labels=_LABELS))
        names.append(name)
        parent = name
    for number in range(_CHAIN):
        key = f"k8s.io/{number}/{chain:064}"
        stub.Prepare(messages.PrepareSnapshotRequest(key=key, parent=parent, labels=_LABELS))
        view = f"{key}-view"
        stub.View(messages.ViewSnapshotRequest(key=view, parent=parent, labels=_LABELS))
        names += [key, view]
    return names


def timed_stats(stub: Stub, names: list[str]) -> list[float]:
    """The seconds of one Stat of each."""
    seconds = []
    for name in names:
        started = time.perf_counter()
        stub.Stat(messages.StatSnapshotRequest(key=name))
        seconds.append(time.perf_counter() - started)
    return seconds


def timed_list(stub: Stub, *filters: str) -> tuple[float, int]:
    """The seconds of a List, and how many it listed."""
    started = time.perf_counter()
    answers = stub.List(messages.ListSnapshotsRequest(filters=filters))
    count = sum(len(answer.info) for answer in answers)
    return time.perf_counter() - started, count


def measure(home: Path, socket: Path, count: int) -> None:
    """Fill a new service with ``count`` snapshots, and print what they cost."""
    service = Service(home, socket)
    print(f"start, empty       {service.start():8.3f} s   {service.resident():6.1f} MiB")
    started = time.monotonic()
    with ThreadPoolExecutor(4) as clients:
        chains = clients.map(lambda chain: fill(service.stub, chain), range(count // (3 * _CHAIN)))
        names = [name for chain in chains for name in chain]
    each = (time.monotonic() - started) / len(names)
    print(f"to make each       {each * 1e3:8.2f} ms  {service.resident():6.1f} MiB")
    service.stop()
    print(f"start, {len(names):6}      {service.start():8.3f} s   {service.resident():6.1f} MiB")
    stats = timed_stats(service.stub, names[:: len(names) // 1000])
    worst = statistics.quantiles(stats, n=100)[98]
    print(
        f"Stat               {statistics.median(stats) * 1e3:8.2f} ms  "
        f"(1 of 100: {worst * 1e3:.2f})"
    )
    for text in ("", "kind==active", 'labels."containerd.io/gc.root"~=^2026'):
        seconds, found = timed_list(service.stub, *([text] if text else []))
        print(f"List               {seconds:8.3f} s   {found} {text}")
    print(f"in the end                      {service.resident():6.1f} MiB")
    service.stop()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, default=Path("/var/tmp"), metavar="DIR")
    parser.add_argument("--snapshots", type=int, default=10_000, metavar="N")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        home = stack.enter_context(scratch(arguments.place)) / "home"
        sockets = Path(stack.enter_context(TemporaryDirectory(prefix="scale-")))
        measure(home, sockets / "socket", arguments.snapshots)


if __name__ == "__main__":
    main()
