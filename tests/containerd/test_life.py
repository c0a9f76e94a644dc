"""Start, stop, crash and start again."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import socket as sockets
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import grpc
import pytest
from grpclib.health.v1 import health_pb2

from reflayer.errors import ReflayerError
from reflayer.plugins.containerd.server import ContainerdService
from reflayer.plugins.service import Metrics, Work
from tests.containerd.served import REFLAYER, Served, code, until

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE = "containerd.services.snapshots.v1.Snapshots"


def refused_start(home: Path, socket: Path, *more: str) -> str:
    """What a process says that cannot serve ``home``."""
    where = ["--home", str(home), "--containerd-socket", str(socket), *more]
    ended = subprocess.run(
        [REFLAYER, "serve", "containerd", *where], stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert ended.returncode == 1
    return ended.stderr


def test_a_size_without_quotas_is_refused_at_the_start(base: Path, socket: Path) -> None:
    told = refused_start(base / "home", socket, "--size=10G")
    assert f"{base}/home" in told
    assert "mounted with prjquota" in told
    assert told.count("\n") == 1


def test_idle_connections_keep_nobody_out(base: Path, socket: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    service = Served(base / "home", socket)
    with ExitStack() as stack:
        stack.callback(service.close)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, limits[1]), limits[1]))
        try:
            service.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for _ in range(250):
            stack.enter_context(sockets.socket(sockets.AF_UNIX)).connect(str(socket))
        service.connect()
        assert service.names() == []
        assert service.stop() == 0


@pytest.mark.parametrize("name", ["", SERVICE])
def test_its_health_can_be_asked_for(service: Served, name: str) -> None:
    answer = service.health.Check(health_pb2.HealthCheckRequest(service=name))
    assert answer.status == SERVING


def test_the_health_of_another_service_is_not_found(service: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        service.health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert code(refused.value) is grpc.StatusCode.NOT_FOUND


def test_who_watches_its_health_does_not_hold_up_a_stop(service: Served) -> None:
    watched = service.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert next(watched).status == SERVING
    os.kill(service.pid, signal.SIGTERM)
    assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert service.ended() == 0


def test_only_root_gets_in(service: Served) -> None:
    assert stat.S_IMODE(service.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(service.home.stat().st_mode) == 0o700


def test_all_is_there_after_a_restart(service: Served) -> None:
    folder = service.prepare("key", one="1")
    (folder / "file").write_text("content")
    service.commit("base", "key", two="2")
    service.prepare("a", "base", three="3")
    service.view("v", "base")
    before = [service.stat(name) for name in ("base", "a", "v")]
    usage = service.usage("base")
    assert service.stop() == 0
    assert not service.socket.exists()
    service.start()
    assert [service.stat(name) for name in ("base", "a", "v")] == before
    assert service.usage("base") == usage
    assert service.mounts("v")[0].source == str(folder)
    assert Path(service.mounts("a")[0].source, "file").read_text() == "content"


def test_a_home_is_served_by_one_process(service: Served) -> None:
    assert "another process serves it" in refused_start(service.home, Path(f"{service.socket}2"))
    service.prepare("a")


def take_the_socket(_home: Path, path: Path) -> None:
    taken = sockets.socket(sockets.AF_UNIX)
    taken.bind(str(path))
    taken.listen()
    taken.detach()  # as long as this process lives


def take_the_database(home: Path, _path: Path) -> None:
    (home / "snapshots.db").mkdir(parents=True)


@pytest.mark.parametrize("take", [take_the_socket, take_the_database])
def test_a_start_that_fails_leaves_nothing(
    tmp_path: Path, socket: Path, take: Callable[[Path, Path], None]
) -> None:
    async def use() -> None:
        work = Work()
        try:
            other = ContainerdService(
                work, Metrics(), socket=f"{socket}2", home=str(tmp_path / "other")
            )
            await other.start()  # for what is opened once, and kept
            await other.stop()
            home = tmp_path / "home"
            take(home, socket)
            before = of_a_service(home)
            failing = ContainerdService(work, Metrics(), socket=str(socket), home=str(home))
            with pytest.raises(ReflayerError):
                await failing.start()
            assert of_a_service(home) == before
        finally:
            work.close()

    asyncio.run(use())


def of_a_service(home: Path) -> list[str]:
    """The sockets and files in ``home`` that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(path for path in found if path.startswith(("socket:", str(home))))


def test_a_home_of_a_newer_reflayer_is_refused(service: Served) -> None:
    service.stop()
    with closing(sqlite3.connect(service.home / "snapshots.db")) as db:
        db.execute("PRAGMA user_version = 99")
    assert "a newer reflayer made it" in refused_start(service.home, service.socket)


def test_what_is_no_database_is_named(service: Served) -> None:
    service.stop()
    (service.home / "snapshots.db").write_bytes(b"something else" * 1000)
    assert f"{service.home}/snapshots.db" in refused_start(service.home, service.socket)


def test_a_home_of_a_long_path_is_served(tmp_path: Path, socket: Path) -> None:
    home = tmp_path / ("x" * 120)
    service = Served(home, socket)
    try:
        service.start()
        service.prepare("a")
    finally:
        service.close()


def test_a_start_lets_go_of_what_is_only_half_there(service: Served) -> None:
    kept = service.prepare("kept")
    service.commit("base", "kept")
    lost = service.prepare("lost", "base")
    service.view("view of nothing")
    service.view("view", "base")
    service.stop(signal.SIGKILL)
    subprocess.run(["rm", "-rf", lost], check=True)
    (service.home / "dir" / "nobodys").mkdir()
    service.start()
    assert service.names() == ["base", "view", "view of nothing"]
    assert len(service.folders()) == 2
    assert kept.name in service.folders()
    until(lambda: not service.leftovers())


def test_what_was_answered_is_true_after_a_crash(service: Served) -> None:
    choose = random.Random(1)
    parent = service.prepare("base-key")
    for number in range(50):
        (parent / str(number)).write_text("content")
    service.commit("base", "base-key")
    there = {"base"}
    for crash in range(5):
        timer = threading.Timer(choose.uniform(0.005, 0.3), os.kill, (service.pid, signal.SIGKILL))
        timer.start()
        asked: set[str] = set()
        try:
            for number in range(10**6):
                key, name = f"{crash}-{number}", f"{crash}-{number}-committed"
                asked = {key}
                service.prepare(key, "base")
                there.add(key)
                if number % 3 == 0:
                    asked = {key, name}
                    service.commit(name, key)
                    there = there - {key} | {name}
                elif number % 3 == 1:
                    asked = {key}
                    service.remove(key)
                    there.remove(key)
        except grpc.RpcError as error:
            assert code(error) is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017  it may come anywhere
        timer.join()
        service.ended()
        service.channel.close()
        service.start()
        names = set(service.names())
        assert names - asked == there - asked
        there = names
        for name in names - {"base"}:
            kind = service.stat(name).kind
            folder = service.view(f"look {name}", name) if kind == 3 else service.folder(name)
            assert len(os.listdir(folder)) == 50
        for name in names - {"base"}:
            if service.stat(name).kind == 3:
                service.remove(f"look {name}")
        assert len(service.folders()) == len(names)
        until(lambda: not service.leftovers())


def test_helpers_end_with_it(service: Served) -> None:
    folder = service.prepare("key")
    for number in range(3000):
        (folder / str(number)).write_text("")
    service.commit("base", "key")
    service.prepare("a", "base")
    group = service.pid
    service.stop(signal.SIGKILL)
    until(lambda: not _processes_of(group))


def _processes_of(session: int) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(name)
    return found
