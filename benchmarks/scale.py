"""What does a store of 10,000 containers and 1,000 images cost each command, beside one of 100?

Both are filled by their records and folders, of one file each; then each command is run on one and
the other in turn, as often as asked. The plugins are timed by clients in Python. The table has
lower quartiles: what else the machine does comes less into them.

    .venv/bin/python -m benchmarks.scale --place /var/lib
"""

from __future__ import annotations

import argparse
import compileall
import http.client
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

import reflayer
from benchmarks.containerd.stub import Stub
from benchmarks.question import REFLAYER
from reflayer.bench.methods import scratch
from reflayer.driver import Driver
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from reflayer.plugins.containerd.records import Records

_BASE = "base"  # the layer of the image
_NAME = "docker.io/library/base:latest"
_PATIENCE = 60  # seconds until a service answers


def random_id() -> str:
    return os.urandom(32).hex()


def folder(path: Path) -> None:
    """A layer of one file."""
    path.mkdir()
    (path / "file").write_bytes(b"x")


class Sizes:
    """One size: a store, and a service of each kind with a home of its own."""

    def __init__(self, place: Path, stack: ExitStack, count: int) -> None:
        place.mkdir()
        self._sockets = Path(stack.enter_context(TemporaryDirectory(prefix="scale-")))
        self._stack = stack
        self._root = place / "store"
        self.store = reflayer.Store(self._root)
        self._fill_store(place, count)
        self._docker_home(place / "docker", count)
        self._containerd_home(place / "containerd", count)

    def _fill_store(self, place: Path, count: int) -> None:
        folder(place / "tree")
        time.sleep(2.1)  # what has just changed is taken in anew
        first = self.store.create(f"rootfs:{place}/tree")
        self._image, layers = first.image_id, self._root / "layers/dir"
        with closing(sqlite3.connect(self._root / "reflayer.db")) as db, db:
            db.execute("INSERT INTO names VALUES (?, ?, '')", (_NAME, self._image))
            for number in range(count // 10):
                layer = random_id()
                folder(layers / layer)
                db.execute("INSERT INTO layers VALUES (?, 1, '{}', NULL)", (layer,))
                row = (f"sha256:{layer}", layer)
                db.execute("INSERT INTO images VALUES (?, NULL, 'linux/amd64', NULL, ?)", row)
                name = f"docker.io/library/other:{number}"
                db.execute("INSERT INTO names VALUES (?, ?, '')", (name, row[0]))
            for number in range(count - 1):
                container = (random_id(), f"container_{number}", self._image, _NAME)
                folder(layers / container[0])
                db.execute("INSERT INTO containers VALUES (?, ?, ?, ?, 1.7e9)", container)
        self.store.prune()

    def _docker_home(self, home: Path, count: int) -> None:
        Driver(home)
        folder(home / "dir" / _BASE)
        (home / "children" / _BASE).mkdir(parents=True)
        for _ in range(count):
            layer = random_id()
            folder(home / "dir" / layer)
            folder(home / "differences" / f"{layer}-init")
            folder(home / "differences" / f"{layer}-init/upper")
            (home / "differences" / f"{layer}-init/lower").symlink_to(_BASE)
            (home / "children" / _BASE / f"{layer}-init").touch()
        self._docker = self._sockets / "docker"
        self._serve("docker", f"--docker-socket={self._docker}", socket=self._docker)
        self._ask("Init", Home=str(home), Opts=[])

    def _containerd_home(self, home: Path, count: int) -> None:
        Driver(home)
        folder(home / "dir" / _BASE)
        Records(str(home / "snapshots.db")).close()
        actives = [(random_id(), _BASE, 2, random_id()) for _ in range(count)]
        rows = [(_BASE, "", 3, _BASE), *actives]
        for _, parent, _, layer in rows:
            if parent:
                folder(home / "dir" / layer)
        with closing(sqlite3.connect(home / "snapshots.db")) as db, db:
            insert = "INSERT INTO snapshots VALUES (?, ?, ?, ?, 0, 0, '{}', 0, 0)"
            db.executemany(insert, rows)
        where = self._sockets / "containerd"
        self._serve("containerd", f"--home={home}", f"--containerd-socket={where}", socket=where)
        channel = self._stack.enter_context(grpc.insecure_channel(f"unix:{where}"))
        self._stub = Stub(channel, messages.DESCRIPTOR.services_by_name["Snapshots"])

    def _serve(self, service: str, *options: str, socket: Path) -> None:
        command = [str(REFLAYER), "serve", service, *options, "--log-level=error"]
        process = self._stack.enter_context(subprocess.Popen(command, start_new_session=True))
        self._stack.callback(process.terminate)
        started = time.monotonic()
        while not socket.exists():
            if process.poll() is not None or time.monotonic() - started > _PATIENCE:
                raise SystemExit(f"serve {service} does not start")
            time.sleep(0.01)

    def _ask(self, name: str, **members: object) -> None:
        with closing(http.client.HTTPConnection("plugin")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self._docker))
            connection.request("POST", f"/GraphDriver.{name}", json.dumps(members).encode())
            answer = json.loads(connection.getresponse().read())
        if answer.get("Err"):
            raise SystemExit(answer["Err"])

    def _run(self, *arguments: str) -> None:
        command = [str(REFLAYER), f"--root={self._root}", *arguments]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    def steps(self) -> dict[str, Callable[[], object]]:
        """What is timed, by what it is called; each step in its turn."""
        key, layer = random_id(), random_id()
        parent, init = {"ID": f"{layer}-init", "Parent": _BASE}, f"{layer}-init"
        prepare = messages.PrepareSnapshotRequest(key=key, parent=_BASE)
        store = self.store
        return {
            "Store.create": lambda: store.create(self._image, name="new"),
            "Store.container": lambda: store.container("new"),
            "Store.remove_container": lambda: store.remove_container("new", wait=False),
            "reflayer create": lambda: self._run("create", "--name=new", self._image),
            "reflayer path": lambda: self._run("path", "new"),
            "reflayer rm": lambda: self._run("rm", "new"),
            "reflayer ps": lambda: self._run("ps"),
            "Docker: Create": lambda: self._ask("CreateReadWrite", **parent),
            "Docker: Create of the container": lambda: self._ask(
                "CreateReadWrite", ID=layer, Parent=init
            ),
            "Docker: Remove": lambda: self._ask("Remove", ID=layer),
            "Docker: Remove of what was below": lambda: self._ask("Remove", ID=init),
            "containerd: Prepare": lambda: self._stub.Prepare(prepare),
            "containerd: Remove": lambda: self._stub.Remove(
                messages.RemoveSnapshotRequest(key=key)
            ),
        }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", type=Path, default=Path("/var/tmp"), metavar="DIR")
    parser.add_argument("--few", type=int, default=100, metavar="N")
    parser.add_argument("--many", type=int, default=10_000, metavar="N")
    parser.add_argument("--runs", type=int, default=30, metavar="N")
    arguments = parser.parse_args()
    sizes = (arguments.few, arguments.many)
    compileall.compile_dir(Path(reflayer.__file__).parent, quiet=2)
    with scratch(arguments.place) as place, ExitStack() as stack:
        rivals = [Sizes(Path(place) / str(count), stack, count) for count in sizes]
        seconds: dict[str, list[list[float]]] = {}
        for run in range(arguments.runs + 1):
            for at, rival in list(enumerate(rivals))[:: 1 if run % 2 else -1]:
                for name, step in rival.steps().items():
                    started = time.perf_counter()
                    step()
                    spent = time.perf_counter() - started
                    seconds.setdefault(name, [[], []])[at].append(spent)
    print(f"Milliseconds, lower quartiles of {arguments.runs} runs, by the number of containers\n")
    print(f"| | {sizes[0]:,} | {sizes[1]:,} | ratio |\n| --- | --- | --- | --- |")
    for name, columns in seconds.items():
        few, many = (statistics.quantiles(column[1:], n=4)[0] * 1e3 for column in columns)
        print(f"| {name} | {few:.2f} | {many:.2f} | {many / few:.2f} |")


if __name__ == "__main__":
    main()
