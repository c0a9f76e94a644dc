"""A stop and a start under the hands of many clients: nothing is lost, and nothing half made."""

from __future__ import annotations

import os
import socket as sockets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from benchmarks.containerd.stub import Stub
from reflayer.plugins.containerd.protocol import snapshots_pb2 as messages
from tests.containerd.served import REFLAYER, Served, code, snapshots_stub, until
from tests.plugins.daemons import daemon

CLIENTS = 64
CONNECTIONS = 16
STOPS = 3
EACH = 60  # requests that are answered between two stops
FILES = 20
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


@dataclass
class Ledger:
    """What clients were told.

    Attributes:
        there: the names that have to be there.
        unknown: those whose last request was not answered.
        codes: the answers, counted.
        is_over: whether they may go home.
    """

    there: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    codes: Counter[grpc.StatusCode] = field(default_factory=Counter)
    is_over: threading.Event = field(default_factory=threading.Event)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: grpc.StatusCode, gone: str, made: str) -> bool:
        """Note an answer; whether ``gone`` is not there any more, but ``made`` is."""
        with self.mutex:
            self.codes[answer] += 1
            self.there.discard(gone)
            if answer is OK:
                self.there.add(made)
            else:
                self.unknown |= {gone, made}
            self.there.discard("")
        return answer is OK


def answer(call: Callable[..., object], request: object) -> grpc.StatusCode:
    try:
        call(request, timeout=60)
    except grpc.RpcError as error:
        return code(error)
    return OK


def hammer(stub: Stub, client: int, ledger: Ledger) -> None:
    """Prepare, commit and remove without a pause."""
    number = 0
    while not ledger.is_over.is_set():
        number += 1
        key = f"{client}-{number}"
        parent = "base" if number % 3 == 0 else ""
        prepare = messages.PrepareSnapshotRequest(key=key, parent=parent)
        if not ledger.note(answer(stub.Prepare, prepare), "", key):
            ledger.is_over.wait(0.02)  # there is nobody for the moment
            continue
        if (number + client) % 8 == 0:
            commit = messages.CommitSnapshotRequest(key=key, name=f"{key}-committed")
            if not ledger.note(answer(stub.Commit, commit), key, f"{key}-committed"):
                continue
            key = f"{key}-committed"
        if number % 4:
            ledger.note(answer(stub.Remove, messages.RemoveSnapshotRequest(key=key)), key, "")


@contextmanager
def hammered(path: Path) -> Iterator[Ledger]:
    """Many clients while the block runs; at its end, the ledger is closed."""
    ledger = Ledger()
    with ExitStack() as stack:
        stubs = []
        for _ in range(CONNECTIONS):
            options = [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 100),
            ]
            channel = stack.enter_context(grpc.insecure_channel(f"unix:{path}", options))
            stubs.append(snapshots_stub(channel))
        with ThreadPoolExecutor(CLIENTS) as clients:
            running = [
                clients.submit(hammer, stubs[n % CONNECTIONS], n, ledger) for n in range(CLIENTS)
            ]
            try:
                yield ledger
            finally:
                ledger.is_over.set()
            for one in running:
                one.result()


def some_work(ledger: Ledger) -> None:
    """Return when some more requests have been granted."""
    before = ledger.codes[OK]
    until(lambda: ledger.codes[OK] >= before + EACH)


def fill(service: Served) -> None:
    folder = service.prepare("base-key")
    for number in range(FILES):
        (folder / str(number)).write_text("content")
    service.commit("base", "base-key")


def assert_true(service: Served, ledger: Ledger) -> None:
    """Assert that what clients were told is so, and that everything is there whole."""
    names = set(service.names()) - {"base"}
    assert names - ledger.unknown == ledger.there - ledger.unknown
    assert len(service.folders()) == len(names) + 1
    for name in names:
        info = service.stat(name)
        if info.parent and info.kind == messages.ACTIVE:
            assert len(os.listdir(service.folder(name))) == FILES
    until(lambda: not service.leftovers())


def test_requests_at_the_moment_of_a_stop_are_granted_or_find_nobody(service: Served) -> None:
    fill(service)
    with hammered(service.socket) as ledger:
        for _ in range(STOPS):
            some_work(ledger)
            assert service.stop() == 0
            service.start()
        some_work(ledger)
    assert set(ledger.codes) <= {OK, UNAVAILABLE}
    assert_true(service, ledger)


def test_requests_wait_in_systemds_socket_while_it_starts_anew(
    place_on: Callable[[str], Path], socket: Path
) -> None:
    service = Served(place_on("xfs") / "home", socket)
    with sockets.socket(sockets.AF_UNIX) as listening, ExitStack() as stack:
        listening.bind(str(socket))
        listening.listen(128)
        where = ["--containerd-socket", str(socket), "--home", str(service.home)]
        command = [str(REFLAYER), "serve", "containerd", *where]
        process = stack.enter_context(daemon(command, sockets=[listening]))
        service.connect()
        fill(service)
        with hammered(socket) as ledger:
            for _ in range(STOPS):
                some_work(ledger)
                process.terminate()
                assert process.wait(60) == 0
                process = stack.enter_context(daemon(command, sockets=[listening]))
            some_work(ledger)
        assert set(ledger.codes) == {OK}
        assert_true(service, ledger)
        service.channel.close()


@pytest.mark.parametrize("requests", [1, 64])
def test_who_waits_for_its_turn_at_a_stop_is_served(service: Served, requests: int) -> None:
    fill(service)
    calls = [
        service.stub.Prepare.future(messages.PrepareSnapshotRequest(key=str(n), parent="base"))
        for n in range(requests)
    ]
    until(lambda: any(call.done() for call in calls))
    process = service.pid
    os.kill(process, 15)
    for call in calls:
        (mount,) = call.result().mounts
        assert len(os.listdir(mount.source)) == FILES
    assert service.ended() == 0
